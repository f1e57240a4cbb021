"""What goes wrong when a model is opened."""

_LONGEST = 90
"""Characters of a foreign message that are quoted."""
_NUM_NAMED = 3


class ModelError(ValueError):
    """A model or checkpoint that cannot be opened; the message is one line that says what to do."""


def one_line(error: BaseException) -> str:
    """Return an error's type and the beginning of the first line of its message."""
    message = (str(error).strip().splitlines() or [""])[0]
    if len(message) > _LONGEST:
        message = message[:_LONGEST] + "…"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def first_few(names: list[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(names[:_NUM_NAMED]) + more
