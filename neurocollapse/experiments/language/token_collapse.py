"""Neural collapse of a language model: the features of positions, with the token that comes next as their class."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import xarray as xr
from torch import Tensor
from torch.nn import functional

from neurocollapse.data import DataError, TokenData, labels
from neurocollapse.experiments.experiment import Experiment, at_least, at_most
from neurocollapse.experiments.language.small_world import Text, small_world
from neurocollapse.experiments.language.texts import words_of_file
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.metrics import SampleWarning
from neurocollapse.models import SmallGPT
from neurocollapse.plots.experiments.token_collapse import token_collapse_figure
from neurocollapse.support.progress import progress_bar
from neurocollapse.support.quiet import kept_random_state, seed_random_state
from neurocollapse.theory import Verdict
from neurocollapse.tracking import track

FALLING = {"cdnv": "CDNV", "unc3": "UNC3"}
QUANTITIES = (*FALLING, "gnc2", "gnc2_variation", "compression", "nc4", "ncm_error")
FALL = 0.8
"""What is left at most, at the end, of each measure that falls; standing still would leave 1. In the small setting with
seeds 0 to 3 it is at most 0.71 over training and 0.55 over width."""
LOWER = 0.05
"""By how much GNC2 falls at least, towards the -0.35 of a simplex: it is the logarithm of an inverse distance. In
these runs it is 0.16 or more over width, and more over training."""
RISE = 0.1
"""By how much agreement with the nearest class mean rises at least. In these runs: 0.17 over training, 0.21
over width."""
LOOKS = (0.0, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Shares of training at which is measured. Claims over training begin with the second: weights at random are no
training, and their features differ by chance."""
BATCH_OF_MEASURE = 32
WARM_UP, WEIGHT_DECAY = 1 / 8, 0.01
SOURCE = "Wu, Papyan, arXiv 2405.17767"


@dataclass(frozen=True)
class TokenCollapse:
    """Setting of the experiment: networks and text are our choice.

    Attributes
    ----------
    text : str
        A UTF-8 file, whose words are the classes; "" draws a text from a small world.
    most_words : int
        Words of a file that are told apart.
    num_beings, num_deeds, num_sentences : int
        Sizes of the small world, whose vocabulary is both and two more; a sentence has six words.
    length : int
        Words of a sequence.
    num_measured : int
        Sequences that are measured, the first ones of those that are trained on.
    widths : tuple of int
        Features of the networks, two at least, ascending.
    num_blocks, num_heads : int
    num_steps, batch_size, learning_rate
        Settings of AdamW on the cross-entropy of the next token; the learning rate rises at first, then falls along a
        cosine.
    seed : int
        Seed of text, weights and batches.
    """

    text: str = ""
    most_words: int = 20_000
    num_beings: int = 40
    num_deeds: int = 40
    num_sentences: int = 4000
    length: int = 48
    num_measured: int = 192
    widths: tuple[int, ...] = (8, 16, 32)
    num_blocks: int = 2
    num_heads: int = 4
    num_steps: int = 320
    batch_size: int = 32
    learning_rate: float = 4e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or list(self.widths) != sorted(set(self.widths)):
            raise ValueError(f"`widths` must be two or more, ascending, got {self.widths}")
        if any(width % self.num_heads for width in self.widths):
            raise ValueError(f"`widths` must be multiples of num_heads={self.num_heads}, got {self.widths}")
        if self.length < 2 or self.most_words < 2:
            raise ValueError("`length` and `most_words` must be at least 2; no word follows a single one")


def token_collapse(setting: TokenCollapse, workplace: Workplace) -> xr.Dataset:
    """Train causal transformers of several widths on a text, and measure what their heads read on the way.

    Returns
    -------
    xarray.Dataset
        Along (width, step): CDNV, GNC2 and its variation, UNC3, NC4, nearest-class-mean error and D of the penultimate
        layer, the class of a position being the word that comes next; `loss` and `error` of the network on the same
        positions. Words that never come next there have no part in any number.
    """
    text = text_of(setting)
    found = [
        workplace.part(f"width-{width}", partial(_measured, width, setting, text, workplace))
        for width in setting.widths
    ]
    dataset = xr.concat(found, xr.Variable("width", list(setting.widths)), combine_attrs="drop_conflicts")
    dataset["width"].attrs["long_name"] = "features of a position"
    dataset["step"].attrs["long_name"] = "steps of training"
    return dataset


def text_of(setting: TokenCollapse) -> Text:
    """The words of a setting."""
    if setting.text:
        return words_of_file(Path(setting.text).expanduser(), setting.most_words)
    return small_world(setting.num_beings, setting.num_deeds, setting.num_sentences, seed=setting.seed)


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """Every measure improves with training, and with width."""
    start, end = dataset.isel(step=min(1, dataset.sizes["step"] - 1)), dataset.isel(step=-1)
    narrow, wide = end.isel(width=0), end.isel(width=-1)
    untrained = [] if dataset.sizes["step"] > 2 else ["the networks are not trained"]
    unmet = untrained + [
        f"width {int(width)}: the loss has not fallen"
        for width, before, after in zip(dataset["width"], start["loss"], end["loss"], strict=True)
        if not float(after) < float(before)
    ]
    found = []
    for name, words in FALLING.items():
        share = float((end[name] / start[name]).max(skipna=False))
        ratio = float(wide[name] / narrow[name])
        found += [
            at_most(f"{words} falls with training: largest part left", SOURCE, share, FALL, unmet=unmet),
            at_most(f"{words} falls with width: widest over narrowest network", SOURCE, ratio, FALL, unmet=unmet),
        ]
    # With few features for many words GNC2 goes either way, and its variation, relative to a mean near 0, is anything.
    fall = float((start["gnc2"] - end["gnc2"])[-1])
    variation = float((end["gnc2_variation"] / start["gnc2_variation"])[-1])
    widest = f"width {int(wide['width'])}"
    rise = float((end["nc4"] - start["nc4"]).min(skipna=False))
    words = "NC4: agreement with the nearest class mean rises with"
    return [
        *found,
        at_least(f"{widest}: GNC2 falls with training: by", SOURCE, fall, LOWER, unmet=unmet),
        at_most(f"{widest}: its variation falls with training: part left", SOURCE, variation, FALL, unmet=unmet),
        at_least("GNC2 falls with width: by", SOURCE, float(narrow["gnc2"] - wide["gnc2"]), LOWER, unmet=unmet),
        at_least(f"{words} training: least rise", SOURCE, rise, RISE, unmet=unmet),
        at_least(f"{words} width: by", SOURCE, float(wide["nc4"] - narrow["nc4"]), RISE, unmet=unmet),
    ]


def _measured(width: int, setting: TokenCollapse, text: Text, workplace: Workplace) -> xr.Dataset:
    """Train one network, and measure it at several steps."""
    sequences = _sequences(text, setting.length)
    with kept_random_state(torch.device("cpu")), warnings.catch_warnings():
        warnings.simplefilter("ignore", SampleWarning)  # some words are rare in every text
        seed_random_state(setting.seed, torch.device("cpu"))
        model = SmallGPT(
            len(text.words), setting.length, width=width, depth=setting.num_blocks, num_heads=setting.num_heads
        )
        chosen = sequences[: setting.num_measured]
        samples = TokenData({"input_ids": chosen}, "text", classes=text.words)
        tracker = track(
            model,
            samples.loader(BATCH_OF_MEASURE),
            layers="penultimate",
            quantities=list(QUANTITIES),
            label_fn=labels.next_token(),
            progress=False,
        )
        looks = {round(share * setting.num_steps) for share in LOOKS}
        for step in _trained(model, sequences, setting, progress=workplace.progress):
            if step in looks:
                loss, error = _loss_and_error(model, chosen)
                tracker.record(step, loss=loss, error=error)
    return tracker.to_dataset().isel(layer=-1).reset_coords(drop=True)


def _sequences(text: Text, length: int) -> Tensor:
    """The text in sequences, shape (sequences, length), without its rest."""
    number = len(text.tokens) // length
    if not number:
        raise DataError(f"the text has {len(text.tokens)} words, fewer than one sequence of {length}; shorten `length`")
    return torch.from_numpy(text.tokens[: number * length]).view(number, length)


def _trained(model: SmallGPT, sequences: Tensor, setting: TokenCollapse, *, progress: bool) -> Iterator[int]:
    """Train, stopping before every step and at the end to give the number of steps done."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=setting.learning_rate, betas=(0.9, 0.99), weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate, num_steps=setting.num_steps))
    for step in progress_bar(range(setting.num_steps), desc="training", shown=progress):
        yield step
        batch = sequences[torch.randint(len(sequences), (setting.batch_size,))]
        loss = functional.cross_entropy(model(batch)[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    yield setting.num_steps


def _rate(step: int, num_steps: int) -> float:
    """The learning rate of a step as a part of the largest one."""
    rise = max(1.0, WARM_UP * num_steps)
    return min(1.0, (step + 1) / rise) * (0.01 + 0.99 * (1 + math.cos(math.pi * step / max(1, num_steps))) / 2)


def _loss_and_error(model: SmallGPT, sequences: Tensor) -> tuple[float, float]:
    """Cross-entropy of the next token, and how often it is not the likeliest."""
    loss, errors = 0.0, 0
    with torch.no_grad():
        for batch in sequences.split(BATCH_OF_MEASURE):
            scores, following = model(batch)[:, :-1].flatten(0, 1), batch[:, 1:].flatten()
            loss += float(functional.cross_entropy(scores, following, reduction="sum"))
            errors += int((scores.argmax(dim=1) != following).sum())
    number = sequences[:, 1:].numel()
    return loss / number, errors / number


EXPERIMENT = Experiment(
    name="token-collapse",
    shows="With training and width, the features in front of each word of a language gather and spread apart.",
    source="Wu, Papyan, arXiv 2405.17767, NeurIPS 2024; networks and text are ours",
    small=TokenCollapse(),
    paper=TokenCollapse(
        num_beings=8000,
        num_deeds=8000,
        num_sentences=400_000,
        length=96,
        num_measured=16_000,
        widths=(64, 128, 256, 512),
        num_blocks=4,
        num_steps=40_000,
        batch_size=64,
        learning_rate=1e-3,
    ),
    durations=("30 s", "hours"),
    run=token_collapse,
    draw=token_collapse_figure,
    claims=claims,
)
