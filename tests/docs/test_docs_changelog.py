"""The changelog keeps the order of Keep a Changelog, and says nothing twice."""

import re
from collections import Counter
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
VERSIONS = dict(re.findall(r"^## (\S+)[^\n]*\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE))
ORDER = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
TITLE = re.compile(r"^\* \*\*(.+?)\*\*", re.MULTILINE)
EXPERIMENT = re.compile(r"`(?:neurocollapse experiment )?([a-z]+(?:-[a-z]+)+)`: ")


@pytest.mark.parametrize("version", VERSIONS)
def test_headings_are_known_and_in_order(version: str) -> None:
    headings = re.findall(r"^### (.+)$", VERSIONS[version], re.MULTILINE)
    assert headings
    assert headings == [name for name in ORDER if name in headings]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pattern", [TITLE, EXPERIMENT], ids=["title", "experiment"])
def test_nothing_is_listed_twice(version: str, pattern: re.Pattern[str]) -> None:
    counted = Counter(pattern.findall(VERSIONS[version]))
    assert [name for name, times in counted.items() if times > 1] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_is_a_list(version: str) -> None:
    lines = [line for line in VERSIONS[version].splitlines() if line and not line.startswith("### ")]
    assert [line for line in lines if not line.startswith(("* ", "  "))] == []
