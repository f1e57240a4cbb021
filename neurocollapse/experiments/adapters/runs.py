"""One training of adapters on a BERT for sentence similarity: the setting, the start, the loop and the score."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from neurocollapse.experiments.adapters.small_bert import Encode, bert_from_folder, small_bert
from neurocollapse.experiments.adapters.sts import ScoredPairs
from neurocollapse.lowrank.adapters import Adapters, CompressedDeepLoRA, DeepLoRA, LoRA, inject
from neurocollapse.lowrank.adapters.kinds import Kind
from neurocollapse.support.quiet import kept_random_state, seed_random_state

KINDS: dict[str, type[Kind]] = {"LoRA": LoRA, "Deep LoRA": DeepLoRA, "compressed Deep LoRA": CompressedDeepLoRA}
BETAS, EPS = (0.9, 0.999), 1e-6
"""Settings of AdamW, without weight decay."""
EVALUATION_BATCH = 200


@dataclass(frozen=True)
class DeepLora:
    """Adapters on a frozen BERT, trained on n sentence pairs with the mean squared error of the score in [0, 5].

    Attributes
    ----------
    model_folder : str or None
        Checkpoint and tokenizer that `save_pretrained` wrote; None is a small BERT that is pretrained first.
    data_folder : str or None
        Folder with train.tsv and dev.tsv of STS-B; None is the small task that comes with the package. A relative
        folder that is not there is looked for in the data root.
    kinds : tuple of str
        "LoRA", "Deep LoRA", "compressed Deep LoRA".
    layers : tuple of str
        Names and globs of the adapted layers. The source adapts every matrix of BERT, its embeddings too; here dense
        layers only. The new head is not among them: it stays as it was drawn.
    train_sizes : tuple of int
        n, each at `sweep_rank`.
    sweep_rank : int
    ranks : tuple of int
        r, each at the smallest n.
    num_repeats : int
        Draws of training pairs, head and adapters, the same for every kind; scores are averaged over them.
    num_steps, num_rank_steps : int
        Steps of AdamW(0.9, 0.999, 1e−6) without weight decay, over n and over r.
    learning_rate : float
        The same for every kind and rank.
    outer : float
        γ: the outer factors of a compressed adapter train at γ times this rate.
    batch_size : int
    centred : bool
        Start the head's bias at the mean score of the training pairs, not at 0.
    num_pretraining_steps : int
        Pretraining steps of the small BERT.
    device : str
        Where torch runs: "cpu", "cuda".
    seed : int
        Seed of everything drawn, the small BERT included.
    """

    model_folder: str | None = None
    data_folder: str | None = None
    kinds: tuple[str, ...] = ("LoRA", "Deep LoRA")
    layers: tuple[str, ...] = ("bert.encoder.**", "bert.pooler.dense")
    train_sizes: tuple[int, ...] = (16, 64)
    sweep_rank: int = 8
    ranks: tuple[int, ...] = (8, 64)
    num_repeats: int = 3
    num_steps: int = 150
    num_rank_steps: int = 150
    learning_rate: float = 1e-3
    outer: float = 1e-2
    batch_size: int = 16
    centred: bool = True
    num_pretraining_steps: int = 500
    device: str = "cpu"
    seed: int = 0


class Start(NamedTuple):
    """What every run starts from."""

    setting: DeepLora
    folder: Path | None
    weights: dict[str, Tensor]
    encode: Encode
    train: ScoredPairs
    dev: ScoredPairs

    def model(self, seed: int) -> nn.Module:
        """The pretrained model with a new head."""
        if self.folder is not None:
            return bert_from_folder(self.folder, seed=seed)
        return small_bert(self.weights, seed=seed)


class Run(NamedTuple):
    """One training of one kind of adapter."""

    kind: str
    train_size: int
    rank: int
    num_steps: int
    repeat: int

    @property
    def name(self) -> str:
        """A name for its file."""
        kind = self.kind.replace(" ", "-").lower()
        return f"{kind}-n{self.train_size}-r{self.rank}-{self.num_steps}-steps-{self.repeat}"


def adapt(start: Start, run: Run) -> xr.Dataset:
    """Train adapters in one run; the model's predictions on the dev pairs give the correlation.

    Returns
    -------
    xarray.Dataset
        `pearson`, `loss` (mean over the last tenth of the steps) and `spectrum` (component).
    """
    setting, device = start.setting, torch.device(start.setting.device)
    seed = 1000 * setting.seed + run.repeat
    pairs = start.train.subset(run.train_size, seed)
    with kept_random_state(device):
        seed_random_state(seed, device)
        model = start.model(seed).to(device)
        inputs, scores = _placed(start.encode(pairs.sentences), device), pairs.scores.to(device)
        if setting.centred:
            _centre(model, float(scores.mean()))
        batches = _batches(run.train_size, setting.batch_size)
        model.train()
        adapters = _injected(model, run, setting, seed, lambda: _loss(model, inputs, scores, next(batches)))
        losses = _train(adapters, run.num_steps, setting, lambda: _loss(model, inputs, scores, next(batches)))
        predicted = _predict(model, start, device)
    last = losses[-max(1, run.num_steps // 10) :]
    return xr.Dataset(
        {
            "pearson": pearson(predicted, start.dev.scores),
            "loss": float(np.mean(last)),
            "spectrum": ("component", mean_spectrum(adapters)),
        }
    )


def pearson(predicted: Tensor, true: Tensor) -> float:
    """The correlation of two lists of scores; 0 if the predictions are all the same or not finite.

    Examples
    --------
    >>> true = torch.tensor([1.0, 2.0, 4.0])
    >>> round(pearson(3 * true - 1, true), 6), pearson(torch.ones(3), true)
    (1.0, 0.0)
    """
    centred = [values.double() - values.double().mean() for values in (predicted, true)]
    scale = float(centred[0].norm() * centred[1].norm())
    smallest = 1e-6 * float(true.double().norm()) * float(centred[1].norm())  # below that only rounding varies
    if not np.isfinite(scale) or scale <= smallest:
        return 0.0
    return float(centred[0] @ centred[1]) / scale


def mean_spectrum(adapters: Adapters) -> np.ndarray:
    """Singular values of the changes as parts of the largest, the mean over layers, as many as the rank."""
    values = [torch.linalg.svdvals(chain.weight_change())[: chain.rank].cpu() for chain in adapters.values()]
    return torch.stack([entry / entry[0] for entry in values]).mean(dim=0).numpy()


def _injected(model: nn.Module, run: Run, setting: DeepLora, seed: int, loss: Any) -> Adapters:
    """Adapters of the run's kind; the compressed ones look at the first batch."""
    kind = KINDS[run.kind](rank=run.rank)
    first = loss if isinstance(kind, CompressedDeepLoRA) else None
    return inject(model, setting.layers, kind=kind, loss=first, seed=seed)


def _train(adapters: Adapters, num_steps: int, setting: DeepLora, loss: Any) -> list[float]:
    """Train with AdamW at a constant rate; returns the loss of every step."""
    groups = adapters.parameter_groups(setting.learning_rate, outer=setting.outer)
    optimizer = torch.optim.AdamW(groups, betas=BETAS, eps=EPS, weight_decay=0.0, fused=True)
    losses = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    return losses


def _batches(num_pairs: int, batch_size: int) -> Iterator[Tensor]:
    """Shuffled batches without end; an incomplete one at the end of a pass is left out, as in the source."""
    while True:
        order = torch.randperm(num_pairs)
        yield from order.split(batch_size)[: max(1, num_pairs // batch_size)]


def _loss(model: nn.Module, inputs: dict[str, Tensor], scores: Tensor, batch: Tensor) -> Tensor:
    """Mean squared error of the scores of a batch."""
    predicted = model(**{key: value[batch] for key, value in inputs.items()}).logits[:, 0]
    return (predicted - scores[batch]).square().mean()


@torch.no_grad()
def _predict(model: nn.Module, start: Start, device: torch.device) -> Tensor:
    """Scores of the dev pairs, without dropout."""
    model.eval()
    sentences = start.dev.sentences
    batches = (sentences[first : first + EVALUATION_BATCH] for first in range(0, len(sentences), EVALUATION_BATCH))
    return torch.cat([model(**_placed(start.encode(batch), device)).logits[:, 0].cpu() for batch in batches])


def _centre(model: nn.Module, mean: float) -> None:
    """Let the head's bias be the mean score."""
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    nn.init.constant_(head.bias, mean)


def _placed(inputs: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A model's inputs on its device."""
    return {key: value.to(device) for key, value in inputs.items()}
