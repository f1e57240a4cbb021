"""Progress bars on standard error that leave standard output alone, where results go."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


class _StandardError:
    """Standard error, unknown to tqdm: where that knows the stream, it flushes standard output as well.

    Standard output may be full, or its reader gone. That must not end a run before its results are saved.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def progress_bar(items: Iterable[Any] | None, *, shown: bool, in_notebooks: bool = False, **options: Any) -> Any:
    """A bar over some items, if it is to be shown and standard error is a terminal, or a notebook where that is asked.

    Parameters
    ----------
    items
        What to go through; None for a bar that the caller moves.
    shown
        Whether anybody wants to see it.
    in_notebooks
        Show it in notebooks as well.
    **options
        As `tqdm.tqdm` takes them.

    Examples
    --------
    >>> list(progress_bar([1, 2], shown=False))
    [1, 2]
    """
    visible = shown and (sys.stderr.isatty() or (in_notebooks and in_notebook()))
    return tqdm(items, file=_StandardError(), disable=not visible, **options)


def in_notebook() -> bool:
    """Whether this code runs in the kernel of a notebook: libraries of Jupyter may be imported elsewhere, too."""
    shell_of = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return shell_of is not None and hasattr(shell_of(), "kernel")
