"""LoRA and Deep LoRA adapters on a BERT that learns sentence similarity from few pairs."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from neurocollapse.data import DataError
from neurocollapse.experiments.adapters.deep_lora_claims import SOURCE, claims
from neurocollapse.experiments.adapters.runs import KINDS, DeepLora, Run, Start, adapt
from neurocollapse.experiments.adapters.small_bert import encoder_of_folder, pretrained_small_bert, small_encoder
from neurocollapse.experiments.adapters.sts import SHIPPED, read_pairs
from neurocollapse.experiments.experiment import Experiment
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.plots.experiments.deep_lora import draw_deep_lora
from neurocollapse.support.progress import progress_bar
from neurocollapse.support.quiet import one_thread


def deep_lora(setting: DeepLora, workplace: Workplace) -> xr.Dataset:
    """Train every kind of adapter at every n and every r, and correlate its scores with the true ones.

    LoRA is the source's: its product is not divided by the rank, so that its steps grow with it. That, rather than the
    number of factors alone, is what fails at rank 64: with α = 1, a factor 1/64, LoRA keeps its correlation in the
    small setting (0.93 in two repeats), and with α = 8 most of it (0.83).

    Returns
    -------
    xarray.Dataset
        Pearson correlations on the dev pairs over `train_size` and over `rank`, the training loss of both, and
        `spectrum`, the singular values of the change at the largest rank.
    """
    _check(setting)
    with one_thread() if setting.model_folder is None and setting.device == "cpu" else nullcontext():
        start = _start(setting, workplace)
        runs = list(dict.fromkeys(_runs(setting)))
        bar = progress_bar(runs, desc="adapters", shown=workplace.progress)
        parts = {run: workplace.part(run.name, partial(adapt, start, run)) for run in bar}
    return _dataset(setting, parts).assign_attrs(
        title="Adapters on sentence similarity", num_train_pairs=len(start.train), num_dev_pairs=len(start.dev)
    )


def _runs(setting: DeepLora) -> Iterator[Run]:
    """Every run; the one that both sweeps share comes twice."""
    for kind in setting.kinds:
        for repeat in range(setting.num_repeats):
            for size in setting.train_sizes:
                yield Run(kind, size, setting.sweep_rank, setting.num_steps, repeat)
            for rank in setting.ranks:
                yield Run(kind, min(setting.train_sizes), rank, setting.num_rank_steps, repeat)


def _start(setting: DeepLora, workplace: Workplace) -> Start:
    """Model, tokenizer and pairs."""
    data = SHIPPED if setting.data_folder is None else _found(setting.data_folder, workplace)
    train, dev = read_pairs(data, "train"), read_pairs(data, "dev")
    if setting.model_folder is not None:
        folder = _found(setting.model_folder, workplace)
        return Start(setting, folder, {}, encoder_of_folder(folder), train, dev)
    weights = pretrained_small_bert(
        setting.num_pretraining_steps,
        seed=setting.seed,
        file=workplace.file("pretrained.safetensors"),
        progress=workplace.progress,
    )
    return Start(setting, None, weights, small_encoder(), train, dev)


def _found(folder: str, workplace: Workplace) -> Path:
    """A folder as it is named, or in the data root."""
    path = Path(folder).expanduser()
    if path.is_dir() or workplace.data_root is None or path.is_absolute():
        return path
    return Path(workplace.data_root) / path


def _check(setting: DeepLora) -> None:
    """Raise unless the setting can be run."""
    unknown = [kind for kind in setting.kinds if kind not in KINDS]
    if unknown or not setting.kinds:
        raise ValueError(f"`kinds` must be some of {', '.join(KINDS)}, got {unknown[0] if unknown else 'none'!r}")
    for field in fields(setting):
        value = getattr(setting, field.name)
        if field.name in ("train_sizes", "ranks", "layers") and not value:
            raise ValueError(f"`{field.name}` must hold at least one value")
        if field.name.startswith("num_") and value < 1:
            raise ValueError(f"`{field.name}` must be at least 1, got {value}")
    if setting.data_folder is not None and setting.model_folder is None:
        raise DataError("`data_folder` needs a `model_folder`: the small BERT knows the words of its own task only")


def _dataset(setting: DeepLora, parts: dict[Run, xr.Dataset]) -> xr.Dataset:
    """All runs in one dataset."""
    repeats, smallest = range(setting.num_repeats), min(setting.train_sizes)

    def swept(name: str, runs: Any, values: tuple[int, ...]) -> np.ndarray:
        return np.array(
            [
                [[float(parts[runs(kind, value, repeat)][name]) for repeat in repeats] for value in values]
                for kind in setting.kinds
            ]
        )

    def by_size(kind: str, size: int, repeat: int) -> Run:
        return Run(kind, size, setting.sweep_rank, setting.num_steps, repeat)

    def by_rank(kind: str, rank: int, repeat: int) -> Run:
        return Run(kind, smallest, rank, setting.num_rank_steps, repeat)

    largest = max(setting.ranks)
    spectra = [
        [parts[by_rank(kind, largest, repeat)]["spectrum"].values for repeat in repeats] for kind in setting.kinds
    ]
    over_sizes, over_ranks = ("kind", "train_size", "repeat"), ("kind", "rank", "repeat")
    correlation = {"units": "1", "reference": SOURCE}
    loss = {"units": "1", "convention": "mean squared error, with dropout, over the last tenth of the steps"}
    return xr.Dataset(
        {
            "pearson_by_size": (
                over_sizes,
                swept("pearson", by_size, setting.train_sizes),
                {"long_name": f"Pearson correlation: rank {setting.sweep_rank}", **correlation},
            ),
            "pearson_by_rank": (
                over_ranks,
                swept("pearson", by_rank, setting.ranks),
                {"long_name": f"Pearson correlation: {smallest} training pairs", **correlation},
            ),
            "loss_by_size": (
                over_sizes,
                swept("loss", by_size, setting.train_sizes),
                {"long_name": "training loss", **loss},
            ),
            "loss_by_rank": (over_ranks, swept("loss", by_rank, setting.ranks), {"long_name": "training loss", **loss}),
            "spectrum": (
                ("kind", "repeat", "component"),
                np.array(spectra),
                {
                    "long_name": "singular values of the change, as parts of the largest",
                    "units": "1",
                    "symbol": "σ_i/σ_1",
                },
            ),
        },
        coords={
            "kind": ("kind", np.array(setting.kinds), {"long_name": "kind of adapter"}),
            "train_size": ("train_size", np.array(setting.train_sizes), {"long_name": "training pairs"}),
            "rank": ("rank", np.array(setting.ranks), {"long_name": "rank of the adapters"}),
            "repeat": ("repeat", np.arange(setting.num_repeats), {"long_name": "repeat"}),
            "component": ("component", np.arange(1, largest + 1), {"long_name": "singular value, largest first"}),
        },
    )


PAPER = DeepLora(
    model_folder="bert-base-cased",
    data_folder="sts-b",
    train_sizes=(16, 64, 256),
    ranks=(8, 16, 32, 64),
    num_repeats=5,
    num_steps=500,
    num_rank_steps=400,
    learning_rate=1e-4,
    centred=False,
)

EXPERIMENT = Experiment(
    name="deep-lora",
    shows="At one learning rate for all ranks, Deep LoRA keeps its score at rank 64 where LoRA loses it.",
    source=f"{SOURCE}, Figures 2 and 6",
    small=DeepLora(),
    paper=PAPER,
    durations=("50 s", "hours on a GPU, not measured"),
    run=deep_lora,
    draw=draw_deep_lora,
    claims=claims,
)
