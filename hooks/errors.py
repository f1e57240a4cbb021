"""What can go wrong while hooking a model, one class for each thing a caller may want to catch."""

from neurocollapse.support.text import visible

_MOST = 300
"""Characters of a message."""


class CaptureError(ValueError):
    """Features cannot be captured as asked; every error of `neurocollapse.hooks` is one, and one line long."""

    def __init__(self, message: object = "") -> None:
        super().__init__(visible(message, most=_MOST))


class NoMatchError(CaptureError):
    """A selector matches no module of the model."""


class NeverFiredError(CaptureError):
    """A chosen module was not called during the forward pass."""


class AmbiguousOutputError(CaptureError):
    """A module's output does not hold exactly one tensor that could be meant."""


class LayoutError(CaptureError):
    """It is not known which axis of a tensor holds the samples or the channels, or a pooling does not fit."""


class CallCountError(CaptureError):
    """A module was called a different number of times than in the first forward pass."""


class ReplicaError(CaptureError):
    """The model runs as several replicas in one process, whose hooks would race."""


class CaptureWarning(UserWarning):
    """The features stand, but something about how they were captured may mislead."""
