"""A bar is for terminals and notebooks, and a process that merely imported Jupyter's libraries is neither."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from neurocollapse.support.progress import in_notebook, progress_bar
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
