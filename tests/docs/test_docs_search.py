"""What new users type into the site's search: each word has a page, and a build whose search misses one says so."""

import json
from pathlib import Path
from typing import Any

import pytest
from site_pages import search

DOCS = Path(__file__).parents[2] / "docs"


def index_of(terms: dict[str, int | list[int]], titles: dict[str, list[int]] | None = None) -> dict[str, Any]:
    return {"docnames": sorted({*search.WANTED.values(), "other"}), "terms": terms, "titleterms": titles or {}}


def complete() -> dict[str, Any]:
    """An index in which every word is found."""
    names = sorted({*search.WANTED.values(), "other"})
    return index_of({word: names.index(page) for word, page in search.WANTED.items()})


def test_a_complete_index_has_every_word() -> None:
    assert search.not_found(complete(), str) == {}


@pytest.mark.parametrize("word", search.WANTED)
def test_a_word_that_leads_elsewhere_is_missed(word: str) -> None:
    index = complete()
    names = list(index["docnames"])
    index["terms"] = index["terms"] | {word: [names.index("other")]}
    assert search.not_found(index, str) == {word: search.WANTED[word]}


def test_words_are_stemmed_and_looked_up_in_titles_and_texts(tmp_path: Path) -> None:
    path = tmp_path / "searchindex.js"
    path.write_text(f"Search.setIndex({json.dumps(index_of({'stem': 0}, {'stem': [1, 2]}))})")
    assert search.pages_of(search.read_index(path), "stem") == set(search.read_index(path)["docnames"][:3])
    assert search.pages_of(search.read_index(path), "stems") == set()


@pytest.mark.parametrize("word", search.WANTED)
def test_a_written_page_has_the_word_itself(word: str) -> None:
    page = DOCS / f"{search.WANTED[word]}.md"
    assert not page.is_file() or word in page.read_text().lower()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_site_builds_without_a_warning_and_finds_every_word(site: Path) -> None:
    index = search.read_index(site / "searchindex.js")
    assert set(search.WANTED.values()) <= set(index["docnames"])
    assert (site / "llms.txt").is_file()
