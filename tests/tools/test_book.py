"""The built course: pictures with words, solutions folded, no path of this machine, nothing fetched."""

import base64

import book
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from sdmad_lite import plots


def test_a_page_shows_pictures_with_words_folds_solutions_and_names_no_machine():
    png, metadata = plots.show_images([[[0]]], ["a heart"])._repr_png_()
    picture = {"image/png": base64.b64encode(png).decode(), "text/plain": "<Figure>"}
    panel = {"application/vnd.jupyter.widget-view+json": {}, "text/html": "<img alt='panel'>", "text/plain": "Panel()"}
    streams = [new_output("stream", name="stderr", text="hm"), new_output("stream", text=f"{book.ROOT}/x")]
    cells = [
        new_code_cell("a", outputs=[new_output("display_data", picture, metadata={"image/png": metadata})]),
        new_code_cell("b", metadata={"tags": ["solution"]}, outputs=[new_output("display_data", panel)]),
        new_code_cell("c", outputs=streams),
    ]
    first, second, third = book.page(new_notebook(cells=cells)).cells
    assert '<img alt="a heart" src="data:image/png;base64,' in first.outputs[0].data["text/html"]
    assert "hide-cell" in second.metadata.tags and "panel" in second.outputs[0].data["text/html"]
    assert not any("widget" in kind for kind in second.outputs[0].data)
    assert [output.text for output in third.outputs] == ["./x"]
    nbformat.validate(new_notebook(cells=[first, second, third]))


def test_a_link_out_of_the_book_becomes_words(tmp_path):
    inside = {(tmp_path / "a.md").resolve()}
    text = "[here](a.md#part) and [code](../x.py), [far](https://example.org), ![p](p.png)"
    kept = "[here](a.md#part) and code, [far](https://example.org), ![p](p.png)"
    assert book.relinked(text, tmp_path, inside) == kept


@pytest.mark.parametrize(
    "tag", ['<script src="https://cdn.org/a.js">', '<link rel="stylesheet" href="https://cdn.org/a.css">']
)
def test_a_page_that_would_fetch_something_is_found(tmp_path, tag):
    (tmp_path / "a.html").write_text(f'<a href="https://example.org">far</a>{tag}')
    assert [line.split(": ", 1)[0] for line in book.fetched(tmp_path)] == ["a.html"]
    (tmp_path / "a.html").write_text('<a href="https://example.org">far</a><script src="_static/a.js">')
    assert book.fetched(tmp_path) == []
