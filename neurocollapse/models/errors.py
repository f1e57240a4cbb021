"""What goes wrong when a model is opened."""


class ModelError(ValueError):
    """A model or checkpoint that cannot be opened; the message is one line that says what to do."""


def one_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    message = str(error).strip().splitlines()
    return f"{type(error).__name__}: {message[0]}" if message else type(error).__name__
