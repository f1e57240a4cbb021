"""The page of errors has every class of the library, and its examples end in the messages that it shows."""

import importlib
import inspect
import pkgutil
import re
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from site_pages import reference

import neurocollapse

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
SECTION = re.compile(r"^### (\w+)\n(.*?)(?=^##|\Z)", re.DOTALL | re.MULTILINE)
BLOCK = {
    language: re.compile(rf"^```{language}\n(.*?)^```$", re.DOTALL | re.MULTILINE) for language in ("python", "text")
}
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")
BASES = {"CaptureError"}
"""Classes that are only caught, never raised."""
ELSEWHERE = {"ProcessError"}
"""Classes whose example takes several processes; the words of their messages are looked up in the source."""


class Section(NamedTuple):
    name: str
    text: str
    code: str
    message: str


def sections() -> list[Section]:
    found = SECTION.findall(PAGE.read_text())
    parts = {key: ["".join(block.findall(text)) for _, text in found] for key, block in BLOCK.items()}
    return [Section(*both, *more) for both, *more in zip(found, parts["python"], parts["text"], strict=True)]


SECTIONS = sections()
SETUP = BLOCK["python"].findall(PAGE.read_text())[0]


def public_classes() -> set[str]:
    """Every exception that a package of the library, or the library itself, makes public."""
    values = [getattr(module, name) for module in reference.packages().values() for name in module.__all__]
    return {value.__name__ for value in values if inspect.isclass(value) and issubclass(value, BaseException)}


def raised(code: str, namespace: dict[str, Any]) -> list[tuple[str, str]]:
    """Class and message of the error that ends some code, or of all warnings that it gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            exec(code, namespace)
        except Exception as error:
            return [(type(error).__name__, str(error))]
    return [(warning.category.__name__, str(warning.message)) for warning in caught]


def same(text: str) -> str:
    """A message on one line, its numbers left out: rounding may differ between machines."""
    return NUMBER.sub("#", " ".join(text.split()))


def test_every_public_error_and_warning_is_on_the_page() -> None:
    assert sorted(section.name for section in SECTIONS) == sorted(public_classes())


def test_every_class_that_can_be_raised_is_public_or_never_leaves_the_library() -> None:
    modules = [importlib.import_module(name) for name in _module_names()]
    classes = {value for module in modules for value in vars(module).values() if inspect.isclass(value)}
    own = {value for value in classes if issubclass(value, BaseException) and "neurocollapse" in value.__module__}
    inside = {"ForwardHalted", "BatchConflict"}  # the end of a halted pass, and a layout that is then read again
    assert {value.__name__ for value in own} - inside == public_classes()


def _module_names() -> list[str]:
    """Modules that need no optional library."""
    hooks = neurocollapse.hooks  # lies beside the others in a copy of the repository
    found = [
        *pkgutil.walk_packages(neurocollapse.__path__, "neurocollapse."),
        *pkgutil.walk_packages(hooks.__path__, f"{hooks.__name__}."),
    ]
    return [info.name for info in found if not re.search(r"__main__|_callback$", info.name)]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_an_error_has_cause_fix_and_example(section: Section) -> None:
    if section.name in BASES:
        return
    assert "**Cause.** " in section.text
    assert "**Fix.** " in section.text
    assert section.message.startswith(f"{section.name}: ")


def test_examples_end_in_the_messages_that_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    exec(SETUP, namespace)
    for section in SECTIONS:
        if section.code:
            found = [f"{name}: {message}" for name, message in raised(section.code, namespace)]
            assert same(section.message) in map(same, found)


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_a_message_of_several_processes_is_in_the_source(name: str) -> None:
    (message,) = [section.message for section in SECTIONS if section.name == name]
    source = Path(inspect.getfile(getattr(neurocollapse.statistics, name))).read_text()
    assert all(part.strip() in source for part in NUMBER.split(message.partition(": ")[2]))


def test_a_class_that_is_no_value_error_says_what_it_is() -> None:
    for section in SECTIONS:
        (value,) = {getattr(module, section.name) for module in _homes() if hasattr(module, section.name)}
        if not issubclass(value, ValueError | UserWarning):
            assert f"A `{value.__base__.__name__}`." in " ".join(section.text.split())


def _homes() -> list[ModuleType]:
    """The packages that make something public."""
    return list(reference.packages().values())


def test_only_bases_and_several_processes_have_no_example() -> None:
    assert {section.name for section in SECTIONS if not section.code} == BASES | ELSEWHERE
