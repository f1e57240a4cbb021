"""Every answer of the page "How do I …?" is short and does what it says, as it is printed."""

import ast
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import pytest
import torch

from neurocollapse.cli import main
from tests.docs.prepared import namespace, write_files, write_language_model, write_run

PAGE = Path(__file__).parents[2] / "docs" / "stories.md"
QUESTION = re.compile(
    r"^### … (?P<question>[^\n]+\?)\n\n```(?P<language>\w+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
TORCHRUN = "torchrun --nproc-per-node 4 -m "
MOST_LINES = 3
OWN = "  # yours"


class Story(NamedTuple):
    question: str
    language: str
    code: str


STORIES = [Story(*found.group("question", "language", "code")) for found in QUESTION.finditer(PAGE.read_text())]
each_in = {
    language: pytest.mark.parametrize(
        "story", [story for story in STORIES if story.language == language], ids=lambda story: story.question
    )
    for language in ("python", "sh")
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names_of(code: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}


def test_every_question_has_an_answer() -> None:
    assert len(STORIES) == PAGE.read_text().count("\n### …") >= 25
    assert len({story.question for story in STORIES}) == len(STORIES)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.question)
def test_an_answer_is_three_lines_of_python_or_one_of_shell(story: Story) -> None:
    lines = [line for line in story.code.splitlines() if line and not line.endswith(OWN)]
    assert 1 <= len(lines) <= {"python": MOST_LINES, "sh": 1}[story.language]


@each_in["python"]
@pytest.mark.filterwarnings("ignore")  # small data on purpose, and other libraries warn of their own future
def test_python_runs_as_printed(story: Story, folder: Path) -> None:
    used = names_of(story.code)
    if "fsdp_model" in used:
        store = torch.distributed.FileStore(str(folder / "store"), 1)
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        exec(story.code, namespace(used))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        plt.close("all")


@each_in["sh"]
@pytest.mark.filterwarnings("ignore")
def test_shell_runs_as_printed(story: Story, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(folder)
    if "hf:" in story.code:
        write_language_model(folder)
    if "check run.nc" in story.code:
        write_run(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    program, *arguments = shlex.split(story.code.removeprefix(TORCHRUN))
    assert program == "neurocollapse"
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    written = {arguments[index + 1] for index, name in enumerate(arguments) if name in ("--report", "--output")}
    assert all((folder / name).stat().st_size for name in written)
