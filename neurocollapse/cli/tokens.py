"""Sequences of tokens on the command line: texts and archives, their labels, and whether the model can embed them."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import neurocollapse as nc
from neurocollapse.support.text import visible

if TYPE_CHECKING:
    from torch import nn

DEFAULT_LENGTH = 256
"""Tokens of a sequence, where the model has so many positions."""
TOKEN_BATCH, BATCH = 8, 128
"""Samples in a batch: a language model has an output for each token of its vocabulary at each position."""


class TokenOptions(NamedTuple):
    """What the command line says about sequences of tokens; None and False where it says nothing."""

    labels: str | None
    ignore_index: int | None
    length: int | None
    lines: bool

    def refuse(self, names: Iterable[str], advice: str) -> None:
        """Raise if any of these options is given."""
        for name in names:
            if getattr(self, name) not in (None, False):
                raise ValueError(f"--{name.replace('_', '-')} {advice}; leave it out")


def open_samples(
    spec: str, model: str, options: TokenOptions, *, split: str, image_size: int | None, limit: int | None
) -> "tuple[nc.data.Samples, nc.models.LocalTokenizer | None]":
    """What `--data` names, sequences of tokens with the labels chosen, and the tokenizer of a text.

    Raises
    ------
    ValueError
        If the data, a text's tokenizer or its labels cannot be read, or an option is given that is for other data.
    """
    from neurocollapse.data.tokens import NEXT_TOKEN  # slow import, needed only here

    is_text = spec.startswith("text:")
    if not is_text:
        options.refuse(("length", "lines"), "cuts text:FILE into sequences")
    tokenizer = _tokenizer(model, spec) if is_text else None
    length = _length(tokenizer, options.length)
    tokens = nc.data.open_tokens(
        spec, split=split, limit=limit, tokenizer=tokenizer, length=length, lines=options.lines
    )
    if tokens is None:
        options.refuse(("labels", "ignore_index"), "is for sequences of tokens (text:FILE, npz:FILE with input_ids)")
        return nc.data.open(spec, split=split, image_size=image_size, limit=limit), None
    if image_size is not None:
        raise ValueError(f"--image-size is for folder:ROOT, got it with {visible(spec, most=60)}; leave it out")
    names = str if tokenizer is None or options.labels != NEXT_TOKEN else tokenizer.token
    return tokens.labelled(options.labels, names=names, **_ignored(options)).limited(limit), tokenizer


def label_options(samples: "nc.data.Samples", options: TokenOptions) -> dict[str, Any]:
    """Where `neurocollapse.analyze` finds the labels of sequences of tokens; nothing for other data."""
    return {"label_fn": samples.label_fn} | _ignored(options) if isinstance(samples, nc.data.TokenData) else {}


def check_tokens(
    network: "nn.Module", samples: "nc.data.TokenData", tokenizer: "nc.models.LocalTokenizer | None"
) -> None:
    """Raise, before the model runs, for tokens that it does not embed; of other models than Hugging Face's, nothing.

    Raises
    ------
    ValueError
        If the tokenizer or the sequences have tokens beyond the model's embedding.
    """
    from torch import nn  # slow imports, needed only here

    from neurocollapse.data.tokens import TOKENS

    find = getattr(network, "get_input_embeddings", None)
    embedding = find() if callable(find) else None
    if not isinstance(embedding, nn.Embedding):
        return
    number = embedding.num_embeddings
    if tokenizer is not None and tokenizer.size > number:
        raise ValueError(
            f"the tokenizer has {tokenizer.size} tokens, but the model embeds {number}; give the tokenizer that it was "
            "trained with, or call model.resize_token_embeddings and save it"
        )
    greatest = int(samples.parts[TOKENS].max())
    if greatest >= number:
        raise ValueError(
            f"{samples.name} has tokens up to {greatest}, but the model embeds {number}; give the tokens of this "
            "model's own tokenizer"
        )


def chosen_classes(classes: str | None) -> int | list[int] | None:
    """What `neurocollapse.analyze` takes as `classes`: a number, or labels with commas between."""
    if classes is None:
        return None
    try:
        if "," not in classes:
            return int(classes)
        return [int(part) for part in classes.split(",")]
    except ValueError:
        raise ValueError(
            f"--classes must be a number of classes, or labels with commas between, got {visible(classes, most=60)!r}"
        ) from None


def _tokenizer(model: str, spec: str) -> "nc.models.LocalTokenizer":
    """The tokenizer in the model's folder."""
    family, _, folder = model.partition(":")
    if family != "hf" or not folder:
        raise ValueError(
            f"{visible(spec, most=60)} needs the tokenizer of a model in a folder; give --model hf:FOLDER, or save the "
            "tokens as npz:FILE"
        )
    return nc.models.read_tokenizer(Path(folder).expanduser())


def _ignored(options: TokenOptions) -> dict[str, int]:
    """The label of positions that do not count, where it is another one than usual."""
    return {} if options.ignore_index is None else {"ignore_index": options.ignore_index}


def _length(tokenizer: "nc.models.LocalTokenizer | None", length: int | None) -> int:
    """Tokens of a sequence: as asked for, else as many as usual that the model has positions for."""
    longest = None if tokenizer is None else tokenizer.longest
    if length is None:
        return min(DEFAULT_LENGTH, longest or DEFAULT_LENGTH)
    if longest is not None and length > longest:
        warnings.warn(f"--length {length} is more than the {longest} positions of the model", stacklevel=2)
    return length
