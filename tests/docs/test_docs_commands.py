"""The command lines that pages and notebooks show are ones that the program takes."""

import json
import re
import shlex
from contextlib import suppress
from pathlib import Path

import pytest
import typer

from neurocollapse.cli.program import app

ROOT = Path(__file__).parents[2]
WRITTEN = sorted(path for path in (ROOT / "docs").rglob("*.md") if not {"_build", "generated"} & set(path.parts))
PAGES = [ROOT / "README.md", *WRITTEN]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COMMANDS = "analyze|layers|verify|experiment|report|track|check"
SHOWN = re.compile(rf"(?:^|`|-m )neurocollapse ((?:{COMMANDS})\b[^`\n]*)", re.MULTILINE)


def text_of(path: Path) -> str:
    """The prose and code of a page or notebook, with continued lines joined."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    return re.sub(r"\s*\\\n\s*", " ", text)


def commands_of(path: Path) -> list[str]:
    """The command lines of a page without the program's name; an ellipsis stands for more."""
    return [shown for shown in SHOWN.findall(text_of(path)) if "…" not in shown]


def parse(command: str) -> None:
    """Raise as the program would for options that are unknown or missing; nothing is run."""
    name, *arguments = shlex.split(command, comments=True)
    with suppress(typer.Exit):  # how --help ends
        typer.main.get_command(app).commands[name].make_context(name, arguments)


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.stem)
def test_commands_are_ones_that_the_program_takes(path: Path) -> None:
    for command in commands_of(path):
        parse(command)


def test_commands_are_found_and_wrong_ones_refused() -> None:
    assert sum(len(commands_of(path)) for path in (*PAGES, *NOTEBOOKS)) > 10
    with pytest.raises(typer.BadParameter.__mro__[1], match="Missing parameter: model"):
        parse("analyze my_network:Net digits --checkpoint trained.safetensors")
    with pytest.raises(typer.BadParameter.__mro__[1], match="--scael"):
        parse("experiment svd-evolution --scael paper")
