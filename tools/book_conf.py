"""Sphinx's settings of the built course; `tools/book.py` puts them beside the pages."""

import latex2mathml.converter

project = "Several anomalies from a few images"
author = "the sdmad_lite contributors"
extensions = ["myst_nb"]
html_theme = "sphinx_book_theme"
html_title = project
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_math_renderer = "mathml"  # browsers draw it themselves, no script is fetched
nb_execution_mode = "off"  # they were executed before
nb_ipywidgets_js = {}
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "misc.highlighting_failure"]


def _math(display):
    def visit(translator, node):
        translator.body.append(latex2mathml.converter.convert(node.astext(), display=display))
        from docutils.nodes import SkipNode

        raise SkipNode

    return visit


def setup(app):
    """A renderer of formulas that needs no network."""
    app.add_html_math_renderer("mathml", (_math("inline"), None), (_math("block"), None))
