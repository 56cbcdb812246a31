"""Launch links: to the tag of this version, from an address that stands in one place."""

import re

import pytest

from sdmad_course import ROOT
from sdmad_course.launch import TAG, first_cell, links, repository
from sdmad_lite.errors import DataError


@pytest.mark.parametrize(
    "line", ['"https://github.com/me/course"', "https://github.com/me/course.git", "https://github.com/me/course/"]
)
def test_one_line_holds_the_address(tmp_path, line):
    (tmp_path / "CITATION.cff").write_text(f"title: x\nrepository-code: {line}\nversion: 1\n")
    assert repository(tmp_path / "CITATION.cff") == "https://github.com/me/course"


@pytest.mark.parametrize(
    "text", [None, "title: x\n", "# repository-code: https://a.org/b/c\n", "repository-code: https://a.org\n"]
)
def test_where_no_address_is_set_the_line_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "CITATION.cff").write_text(text)
    with pytest.raises(DataError, match=r'CITATION\.cff: has no line "repository-code: https://HOST/OWNER/NAME"'):
        repository(tmp_path / "CITATION.cff")


def test_links_lead_to_a_room_of_the_tagged_version():
    found = links("https://github.com/me/course", "06_reasons")
    assert found["Colab"] == f"https://colab.research.google.com/github/me/course/blob/{TAG}/notebooks/06_reasons.ipynb"
    assert f"https%3A%2F%2Fgithub.com%2Fme%2Fcourse/{TAG}?" in found["Binder"]
    assert list(links("https://gitlab.org/me/course")) == ["Binder"]
    for link in links("https://a.org/me/course").values():
        assert (ROOT / re.search(r"tree/(.+)$", link)[1]).is_file()


def test_what_colab_needs_is_what_the_page_says():
    page = (ROOT / "docs" / "where_to_run.md").read_text(encoding="utf-8")
    assert [line.strip() for line in first_cell("ADDRESS/sdmad_lite").splitlines()] == [
        line.strip() for line in re.search(r"(^ {4}!git(?:.*\n)(?: {4}.*\n)+)", page, re.MULTILINE)[1].splitlines()
    ]


def test_what_a_page_or_a_room_installs_from_git_is_the_tagged_version():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/*.md"), *ROOT.glob("notebooks/*.ipynb")]
    found = [re.findall(r"(?:--branch |git\+[^\s@]+)(\S*)", page.read_text(encoding="utf-8")) for page in pages]
    assert {tag.strip('@"\\,n`') for tags in found for tag in tags} == {TAG}
