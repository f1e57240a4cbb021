"""What goes wrong when a model is opened."""

from neurocollapse.support.text import first_line, visible

_MOST = 300
"""Characters of a message."""


class ModelError(ValueError):
    """A model or checkpoint that cannot be opened; the message is one line that says what to do."""

    def __init__(self, message: object) -> None:
        super().__init__(visible(message, most=_MOST))


def one_line(error: BaseException) -> str:
    """Return an error's type and the beginning of the first line of its message."""
    return type(error).__name__ + (f": {first_line(error)}" if str(error) else "")
