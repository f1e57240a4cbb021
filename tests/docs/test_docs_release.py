"""One version: in the package, in the citation, and at the top of the changelog."""

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def version() -> str:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    return settings["metadata"]["version"]


def test_the_citation_names_the_version_of_the_package() -> None:
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited is not None
    assert cited[1] == version()


def test_the_newest_release_of_the_changelog_is_the_version_of_the_package() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert next(heading for heading in headings if heading != "Unreleased") == version()
    assert "Unreleased" not in headings[1:]


def test_what_the_archive_shows_is_checked_in_continuous_integration() -> None:
    assert "twine check --strict dist/*" in (ROOT / ".ci" / "run").read_text()
