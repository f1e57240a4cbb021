"""A bar is for terminals and notebooks, lines are for logs; a process with Jupyter's libraries alone is no notebook."""

import errno
import io
import sys
from types import ModuleType, SimpleNamespace

import pytest

from neurocollapse.support.progress import announce, in_notebook, progress_bar, progress_in_lines
from neurocollapse.support.provenance import command_line


def interactive(monkeypatch: pytest.MonkeyPatch, shell: object) -> None:
    """Pretend that IPython runs with this shell."""
    module = ModuleType("IPython")
    module.get_ipython = lambda: shell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)


@pytest.mark.parametrize(
    ("shell", "expected"), [(None, False), (SimpleNamespace(), False), (SimpleNamespace(kernel=1), True)], ids=str
)
def test_a_notebook_is_a_shell_with_a_kernel(shell: object, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    interactive(monkeypatch, shell)
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    assert in_notebook() == expected
    assert (command_line() == "interactive") == expected
    assert progress_bar([1], shown=True, in_notebooks=True).disable != expected
    assert progress_bar([1], shown=True).disable
    assert progress_bar([1], shown=False, in_notebooks=True).disable


def test_without_ipython_there_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Full(io.StringIO):
    """A log on a disk without room."""

    def write(self, text: str) -> int:
        if text:
            raise OSError(errno.ENOSPC, "no room")
        return 0


def test_a_log_gets_a_line_every_15_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with progress_in_lines(clock), progress_bar(range(100), shown=True, desc="training", unit="epoch") as bar:
        for epoch in bar:
            clock.now += 1
            bar.set_postfix(loss=f"{epoch:.1f}", refresh=False)
    due = [f"training: epoch {count} of 100, loss={count - 1}.0" for count in range(15, 100, 15)]
    assert capsys.readouterr() == ("", "\n".join([*due, ""]))


def test_a_bar_tells_that_it_begins_where_a_line_is_due(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with progress_in_lines(clock):
        clock.now += 20
        for _ in progress_bar(iter("ab"), shown=True):
            clock.now += 40
    assert capsys.readouterr().err == "progress: 0\nprogress: 1\nprogress: 2\n"


def test_short_bars_speak_as_seldom_as_long_ones(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with progress_in_lines(clock):
        announce("fitting", shown=True)
        for _ in range(100):
            with progress_bar(None, total=1, shown=True, desc="fit", unit="run") as bar:
                clock.now += 0.25
                bar.update()
                bar.write("not due")
    assert capsys.readouterr().err.splitlines() == ["fitting", "fit: run 1 of 1"]


def test_a_script_stays_as_silent_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_in_lines():
        list(progress_bar([1], shown=False))
        announce("drawing", shown=False)
    list(progress_bar([1], shown=True))
    announce("drawing", shown=True)
    assert capsys.readouterr() == ("", "")


def test_a_log_without_room_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Full())
    clock = Clock()
    with progress_in_lines(clock):
        announce("drawing", shown=True)
        clock.now += 20
        assert list(progress_bar([1, 2], shown=True)) == [1, 2]
