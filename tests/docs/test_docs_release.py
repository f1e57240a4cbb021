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


def test_the_environment_of_conda_installs_this_folder_with_the_python_and_versions_of_the_package() -> None:
    text = (ROOT / "environment.yml").read_text()
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    python = re.search(r"^  - python(>=\S+),<3\.(\d+)$", text, re.MULTILINE)
    assert python is not None
    assert python[1] == settings["options"]["python_requires"]
    newest = max(map(int, re.findall(r"Python :: 3\.(\d+)", settings["metadata"]["classifiers"])))
    assert int(python[2]) == newest + 1
    arguments = re.findall(r"^      - (.+)$", text, re.MULTILINE)
    assert arguments == ["--constraint constraints.txt", "--editable ."]
    assert (ROOT / "constraints.txt").is_file()


def test_what_the_archive_shows_is_checked_in_continuous_integration() -> None:
    assert "twine check --strict dist/*" in (ROOT / ".ci" / "run").read_text()
