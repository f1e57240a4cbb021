"""Where a batch holds its labels: by the names of its parts, or by the only part that can be labels."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocollapse.data.batch_parts import is_sequence, kind_of, lengths, named_parts, part_of, tensors_in
from neurocollapse.data.labelled import DataError
from neurocollapse.support.text import listed
from neurocollapse.support.transfer import on_cpu

LABEL_NAMES = ("labels", "label", "targets", "target", "y")
"""What labels are called in dicts, named tuples, dataclasses and objects, in the order in which they are looked up."""


class Labels(NamedTuple):
    """The labels of a batch, and what else is in it.

    `inputs` is the first element of a tuple, and `others` its other elements without the labels; or `inputs` is the
    whole batch, whose part called `name` holds the labels.
    """

    values: Any
    inputs: Any
    name: str | None = None
    others: tuple[Any, ...] = ()


def find_labels(batch: Any) -> Labels:
    """The labels of a batch, known by name or by position; where more than one part could be meant, it is refused.

    A mapping, named tuple, dataclass or object has them under one of `LABEL_NAMES`. A tuple or list of two is (inputs,
    labels); of a longer one they are the only element after the first that can be labels: integers, one for each
    sample, or one-hot rows.

    Raises
    ------
    DataError
        If no part can be labels, or more than one.

    Examples
    --------
    >>> find_labels((torch.zeros(2, 3), torch.rand(2), torch.tensor([1, 0]))).values
    tensor([1, 0])
    """
    if name := _label_name(batch):
        return Labels(part_of(batch, name), batch, name)
    if isinstance(batch, Mapping):
        raise DataError(
            f"a dict batch needs its labels under one of {', '.join(LABEL_NAMES)}; got the keys "
            f"{listed(batch, most=6)}; pass label_fn to say where they are"
        )
    if not is_sequence(batch) or len(batch) < 2:
        raise DataError(f"a batch must be a pair (inputs, labels) or a dict, got a {kind_of(batch)}; pass label_fn")
    place = _chosen(batch)
    others = tuple(element for index, element in enumerate(batch) if index not in (0, place.position))
    return Labels(place.values, batch[0], place.name if place.position == 0 else None, others)


class _Place(NamedTuple):
    """Where the labels could be: an element of a tuple, or its part called `name`."""

    position: int
    name: str | None
    values: Any

    @property
    def path(self) -> str:
        """How the place is written in Python, behind the name of the batch."""
        return f"[{self.position}]{f'[{self.name!r}]' if self.name else ''}"


def _chosen(batch: tuple[Any, ...] | list[Any]) -> _Place:
    """The place of the labels in a tuple of two or more."""
    places = [place for index, element in enumerate(batch) if (place := _place(index, element))]
    if len(batch) == 2 and [place.position for place in places] == [1]:
        return places[0]  # by convention; what it holds is checked where labels are read
    forms = [_form(place.values, batch[0]) for place in places]
    fits = [place for place, form in zip(places, forms, strict=True) if form == "labels"]
    rivals = [place for place, form in zip(places, forms, strict=True) if form == "like labels"]
    if len(batch) == 2:
        rivals = []
        fits = fits[-1:] if _all_equal([place.values for place in fits]) else fits
    if len(fits) + len(rivals) == 1:
        return (fits + rivals)[0]
    if not fits and not rivals:
        raise DataError(
            f"no element of a batch of {len(batch)} can be labels, integers one for each sample; got "
            f"{'; '.join(map(kind_of, batch[:4]))}; pass label_fn to say where they are"
        )
    found = " or ".join(f"batch{place.path} ({kind_of(place.values)})" for place in [*fits, *rivals][:4])
    raise DataError(
        f"the labels of a batch of {len(batch)} elements could be {found}; say which with "
        f"label_fn=lambda batch: batch{fits[-1].path if fits else rivals[-1].path}"
    )


def _place(index: int, element: Any) -> _Place | None:
    """Where an element could hold labels: the part called so, or all of an element after the first without names."""
    if name := _label_name(element):
        return _Place(index, name, part_of(element, name))
    holds_names = is_sequence(element) and len(element) > 0 and named_parts(element[0]) is not None
    if index == 0 or holds_names or named_parts(element) is not None:
        return None
    return _Place(index, None, element)


def _label_name(value: Any) -> str | None:
    """What the labels in a mapping, named tuple, dataclass or object are called; None where there are none."""
    parts = named_parts(value)
    if parts is None:
        if isinstance(value, Tensor | np.ndarray | tuple | list):
            return None
        parts = {name: part for name in LABEL_NAMES if not callable(part := getattr(value, name, None))}
    present = [name for name in LABEL_NAMES if name in parts]
    filled = [name for name in present if parts[name] is not None]
    if len(filled) > 1:
        inputs = {name: part for name, part in parts.items() if name not in LABEL_NAMES}
        fits = [name for name in filled if _form(parts[name], inputs) == "labels"]
        if not _all_equal([parts[name] for name in fits]):
            raise DataError(
                f"the labels of a {type(value).__name__} could be {' or '.join(map(repr, fits))}, which differ; say "
                "which with label_fn"
            )
        return (fits or filled)[0]
    return filled[0] if filled else present[0] if present and named_parts(value) is not None else None


def _form(values: Any, inputs: Any) -> Literal["labels", "like labels", "neither"]:
    """Whether values are labels of the inputs as they are read, or could be meant as labels, or neither."""
    array, sizes = _as_array(values), lengths(inputs)
    if array is None or array.ndim == 0 or (sizes and len(array) not in sizes):
        return "neither"
    integers = array.dtype.kind in "biu"
    if array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1):
        return "labels" if integers else "like labels" if _may_name_classes(array.ravel()) else "neither"
    zero_or_one = bool(((array == 0) | (array == 1)).all())
    if zero_or_one and array.ndim == 2 and bool((array.sum(axis=1) == 1).all()):
        return "labels"
    first = next(tensors_in(inputs), None)
    shape = () if first is None or first.is_nested else tuple(first.shape)
    if array.shape in (shape[: array.ndim], (*shape[:1], *shape[2:])):  # one value for each position of the inputs
        # Without a first tensor the shape is (), which no array of two axes or more has.
        is_mask = zero_or_one and (array.dtype.kind != "i" or not first.is_floating_point())  # type: ignore[union-attr]
        return "like labels" if integers and not is_mask else "neither"
    return "like labels" if zero_or_one and array.ndim == 2 else "neither"


def _may_name_classes(values: NDArray[Any]) -> bool:
    """Whether values are whole numbers that are not all one, or words of which one comes twice."""
    if values.dtype.kind == "f":
        return bool((values == np.round(values)).all()) and len(np.unique(values)) > 1
    return values.dtype.kind == "U" and len(np.unique(values)) < len(values)


def _as_array(values: Any) -> NDArray[Any] | None:
    """Values that might be labels as an array; None for images, objects, and what has no plain numbers."""
    if isinstance(values, Tensor | np.ndarray) and values.ndim > (3 if _holds_integers(values) else 2):
        return None
    if isinstance(values, Tensor):
        if values.layout != torch.strided or values.is_nested or values.is_complex():
            return None
        plain = on_cpu(values).detach()
        return (plain.double() if plain.is_floating_point() else plain).numpy()
    if isinstance(values, list | tuple) and len(values):
        numbers = [part.item() if isinstance(part, Tensor) and part.ndim == 0 else part for part in values]
        if not isinstance(numbers[0], int | float | str | np.generic | list | tuple):
            return None
        try:
            values = np.asarray(numbers)
        except (ValueError, TypeError):  # ragged, or of tensors
            return None
    return values if isinstance(values, np.ndarray) and values.dtype.kind in "biufU" else None


def _holds_integers(values: Tensor | NDArray[Any]) -> bool:
    """Whether values are integers or bools, or words, which are told apart later."""
    return not values.is_floating_point() if isinstance(values, Tensor) else values.dtype.kind != "f"


def _all_equal(values: list[Any]) -> bool:
    """Whether values that can be labels are the same."""
    arrays = [_as_array(value) for value in values]
    # NumPy's stubs have no None, which equals no array and is compared as such.
    return all(a is not None and np.array_equal(a, arrays[0]) for a in arrays[1:])  # type: ignore[arg-type]
