"""Data by name: "digits", "mnist:ROOT", …, and the user's own "package.module:factory"."""

from neurocollapse.data.digits import read_digits
from neurocollapse.data.labelled import DataError, LabelledData


def open(spec: str, *, split: str = "train") -> LabelledData:
    """Open labelled data by name."""
    if spec != "digits":
        raise DataError(f"`data` must be 'digits', got {spec!r}")
    return read_digits(split)
