"""Results are on the disk before they are printed: nothing is lost where standard output is closed or full."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import neurocollapse as nc
from neurocollapse.cli import main

LINEAR = """
from torch import nn

def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))

class Ending(nn.Module):
    def forward(self, x):
        raise SystemExit(5)
"""
COMMANDS = {
    "analyze": ["--model", "linear_models:network", "--data", "digits", "--output", "a.nc", "--report", "a.html"],
    "verify": ["--model", "linear_models:network", "--data", "digits", "--limit", "90", "--json", "a.json"],
    "experiment": ["svd-evolution", "--output", "a.nc", "--figure", "a.svg", "--report", "a.html"],
    "report": ["saved.nc", "--output", "a.html"],
}


class Full(io.TextIOBase):
    """A stream on which nothing can be written, now or when it is flushed."""

    def __init__(self, number: int, *, at_once: bool) -> None:
        self.failure = OSError(number, os.strerror(number))
        self.at_once = at_once
        self.place = os.open(os.devnull, os.O_WRONLY)

    def write(self, text: str) -> int:
        """Fail now, or keep the text."""
        if self.at_once:
            raise self.failure
        return len(text)

    def flush(self) -> None:
        """Fail."""
        if not self.closed:
            raise self.failure

    def fileno(self) -> int:
        """Of the null device."""
        return self.place


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module of models and the results of an analysis."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "linear_models.py").write_text(LINEAR)
    network = nc.models.mlp(64, 8, 10, depth=1)
    nc.save(nc.analyze(network, nc.data.open("digits").loader(128), progress=False), folder / "saved.nc")
    return folder


@pytest.fixture(autouse=True)
def _inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in the folder, and remove afterwards what the command has written."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    yield
    for path in folder.glob("a.*"):
        path.unlink()


def code_of(command: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as exit_:
        main([command, *COMMANDS[command]])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("number", "at_once"), [(errno.ENOSPC, False), (errno.EPIPE, True)])
def test_results_are_saved_where_nothing_can_be_printed(
    command: str, number: int, at_once: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Full(number, at_once=at_once))
    monkeypatch.setattr(sys, "stderr", sys.stderr)  # typer wraps both
    assert code_of(command) == 2
    message = capsys.readouterr().err
    assert os.strerror(number) in message
    assert message.count("\n") == 1
    assert_complete(command)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_process_without_an_output_saves_and_judges(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert code_of(command) == (3 if command == "verify" else 0)
    assert_complete(command)


def assert_complete(command: str) -> None:
    """Every file that was asked for is there, and whole."""
    for name in (name for name in COMMANDS[command] if name.startswith("a.")):
        content = Path(name).read_bytes()
        if name == "a.nc":
            assert len(nc.open(name).data_vars) > 0
        assert content.rstrip().endswith({"a.html": b"</html>", "a.json": b"}", "a.svg": b"</svg>"}.get(name, b""))


class Terminal(io.StringIO):
    """Standard error that somebody looks at."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.mark.parametrize("full", [True, False])
def test_a_progress_bar_leaves_a_full_standard_output_alone(full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", Full(errno.ENOSPC, at_once=True) if full else io.StringIO())
    monkeypatch.setattr(sys, "stderr", terminal)
    network = nc.models.mlp(64, 8, 10, depth=1)
    batches = [(torch.zeros(4, 64), torch.arange(4)), (torch.ones(4, 64), torch.arange(4))]
    nc.collect(network, batches, layers="layers.0")
    nc.train.fit(network, nc.data.open("digits").subset(range(20)), epochs=1, batch_size=10, learning_rate=0.1)
    shown = terminal.getvalue()
    assert "2/2" in shown
    assert "training" in shown


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_console_without_greek_letters_shows_them_as_numbers(
    command: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding=encoding))
    assert code_of(command) == (3 if command == "verify" else 0)
    sys.stdout.flush()
    text = printed.getvalue().decode(encoding)
    assert ("\\u03a3" in text) == (command == "analyze")
    assert_complete(command)


def test_a_model_that_ends_the_program_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["analyze", "--model", "linear_models:Ending", "--data", "digits", "--output", "a.nc"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.endswith("ended the program: sys.exit(5); remove that call\n")


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf"])
def test_memory_is_asked_for_in_the_units_of_the_option(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["analyze", "--model", "linear_models:network", "--data", "digits", f"--max-memory={given}"])
    assert exit_.value.code == 2
    assert f"--max-memory must be a positive number of GiB, got {given}" in capsys.readouterr().err
