"""Data by name: "digits", "mnist:ROOT", …, and the user's own "package.module:factory"."""

import warnings
from collections.abc import Callable
from pathlib import Path

from neurocollapse.data.cifar10 import read_cifar10
from neurocollapse.data.digits import read_digits
from neurocollapse.data.factory import call_factory
from neurocollapse.data.folder import read_folder
from neurocollapse.data.idx import read_fashion_mnist, read_mnist
from neurocollapse.data.labelled import DataError, Labelled
from neurocollapse.data.limit import checked_limit, stratified
from neurocollapse.data.npz import read_npz
from neurocollapse.data.text import Tokenizer, read_text
from neurocollapse.data.token_npz import holds_tokens, read_token_npz
from neurocollapse.data.tokens import TokenData
from neurocollapse.support.names import did_you_mean
from neurocollapse.support.text import visible

SPLITS = ("train", "test")

Reader = Callable[[Path, str, int | None], Labelled]

READERS: dict[str, tuple[str, Reader]] = {
    "mnist": ("ROOT", read_mnist),
    "fashion-mnist": ("ROOT", read_fashion_mnist),
    "cifar10": ("ROOT", read_cifar10),
    "folder": ("ROOT", read_folder),
    "npz": ("FILE", read_npz),
}
KNOWN = (
    "digits", *(f"{name}:{place}" for name, (place, _) in READERS.items()), "text:FILE", "package.module:factory"
)  # fmt: skip


def open(spec: str, *, split: str = "train", image_size: int | None = None, limit: int | None = None) -> Labelled:
    """Open labelled data by name.

    Parameters
    ----------
    spec
        ======================  ==========================================================================
        digits                  scikit-learn's 8 × 8 digits; needs no file
        mnist:ROOT              the four IDX files in ROOT, plain or .gz
        fashion-mnist:ROOT      the same, with the names of the clothes
        cifar10:ROOT            the binary version: data_batch_1.bin …, test_batch.bin
        folder:ROOT             images in ROOT/CLASS/, or in ROOT/train/CLASS/ and ROOT/test/CLASS/
        npz:FILE                arrays `inputs` and `labels` (or train_inputs, train_labels, test_inputs, …)
        package.module:factory  a function, found from the current folder too, that takes `split` or nothing
                                and returns a LabelledData, a torch Dataset of (input, integer label) pairs,
                                or (inputs, labels)
        ======================  ==========================================================================

        Pixels become float32 in [0, 1], channels first. Reading a file never runs code from it.
    split : str, default "train"
        "train" or "test". Data that comes in one piece is the train split.
    image_size : int, optional
        For folders: the shorter side is scaled to so many pixels and the centre cropped.
    limit
        Take only so many samples: the first ones of each class, the same share of all classes, in their order. Files
        are read no further than that needs. Default: all.

    Returns
    -------
    Labelled
        `LabelledData` with all inputs in memory, `LabelledImages` for folders, `LabelledSamples` around a Dataset.

    Raises
    ------
    DataError
        If the name is unknown, a file is missing, its contents are not what the format promises, or they would not fit
        in memory.

    Examples
    --------
    >>> open("digits", split="test")
    LabelledData('digits/test', 360 samples of shape (1, 8, 8), 10 classes)
    """
    if split not in SPLITS:
        raise DataError(f"`split` must be 'train' or 'test', got {split!r}")
    if not isinstance(spec, str):
        raise TypeError(f"`data` must be a string like 'digits' or 'mnist:ROOT', got a {type(spec).__name__}")
    if image_size is not None and spec.partition(":")[0] != "folder":
        raise DataError(f"`image_size` belongs to 'folder:ROOT', got it with {spec!r}")
    limit = checked_limit(limit)
    try:
        samples = _read(spec, split, image_size, limit)
    except OSError as error:  # such as a name that no file can have
        raise DataError(f"{visible(spec)} cannot be read: {error.strerror}; check the path") from error
    return samples.subset(stratified(samples.labels, limit)) if limit is not None else samples


def open_tokens(
    spec: str,
    *,
    split: str = "train",
    limit: int | None = None,
    tokenizer: Tokenizer | None = None,
    length: int = 256,
    lines: bool = False,
) -> TokenData | None:
    """Open sequences of tokens by name: "text:FILE", or "npz:FILE" with an array `input_ids`.

    Parameters
    ----------
    spec : str
        As in `open`.
    split : str, default "train"
        A text has no test split.
    limit : int, optional
        At most this many sequences of a text; archives are read whole (see `TokenData.limited`).
    tokenizer : LocalTokenizer, optional
        Needed for a text; see `neurocollapse.models.read_tokenizer`.
    length : int, default 256
        Tokens of a sequence of text at most.
    lines : bool, default False
        A sequence for every line of a text, in place of equal pieces.

    Returns
    -------
    TokenData or None
        None where the name is of other data.

    Raises
    ------
    DataError
        If the file cannot be read as such sequences, or a text comes without a tokenizer.
    """
    name, _, place = spec.partition(":")
    path = Path(place).expanduser()
    try:
        if name == "npz" and place and holds_tokens(path):
            return read_token_npz(path, split)
        if name != "text" or not place:
            return None
        if tokenizer is None:
            raise DataError(
                f"{visible(spec, most=60)} needs the tokenizer of a model; analyze it with --model hf:FOLDER"
            )
        if split != "train":
            raise DataError(f"{visible(spec, most=60)} has no {split} split; name the file of that split")
        samples, notes = read_text(path, tokenizer, length=length, lines=lines, limit=checked_limit(limit))
    except OSError as error:  # such as a name that no file can have
        raise DataError(f"{visible(spec)} cannot be read: {error.strerror}; check the path") from error
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return samples


def _read(spec: str, split: str, image_size: int | None, limit: int | None) -> Labelled:
    """Read what a name stands for; readers that can stop early read only the limited part."""
    name, _, place = spec.partition(":")
    if (name == "text" and place) or (name == "npz" and place and holds_tokens(Path(place).expanduser())):
        raise DataError(f"{visible(spec, most=60)} holds sequences of tokens, which `neurocollapse analyze` measures")
    if spec == "digits":
        return read_digits(split)
    if name in READERS and place:
        if name == "folder":
            return read_folder(Path(place).expanduser(), split, image_size)
        return READERS[name][1](Path(place).expanduser(), split, limit)
    if name in READERS or name in ("digits", "text") or not _could_be_factory(name, place):
        raise _unknown(spec)
    return call_factory(spec, split, not_found=_unknown(spec))


def _could_be_factory(module: str, attribute: str) -> bool:
    """Tell whether both parts are dotted Python names."""
    return all(part.isidentifier() for dotted in (module, attribute) for part in dotted.split("."))


def _unknown(spec: str) -> DataError:
    """Return the error that lists what can be opened, with the nearest match."""
    name = spec.partition(":")[0]
    forms = {known.partition(":")[0]: known for known in KNOWN[:-1]}
    hint = did_you_mean(name.lower(), forms, most=1, shown_as=forms)
    return DataError(f"`data` must be one of {', '.join(KNOWN)}, got {visible(spec)!r}{hint}")
