"""Half of the classes to train on, the other half to transfer to, and networks trained on the first half."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from neurocollapse.data import Labelled, LabelledData
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.models import SmallVGG
from neurocollapse.support.quiet import in_mode
from neurocollapse.train.settings import loss_of

Loss = Literal["cross_entropy", "mse", "contrastive"]
LOSSES: tuple[Loss, ...] = ("cross_entropy", "mse", "contrastive")
SPLITS = ("train", "test")
TEMPERATURE = 0.1
"""Temperature of the supervised contrastive loss: that of Khosla et al. on CIFAR and ImageNet."""


@dataclass(frozen=True)
class Halves:
    """The two halves of the classes of a data set, each with its training and its test samples.

    Attributes
    ----------
    source, target : dict of {"train", "test"} to LabelledData
        In each half the classes are numbered from 0.
    """

    source: dict[str, LabelledData]
    target: dict[str, LabelledData]

    @classmethod
    def of(cls, spec: str, workplace: Workplace) -> "Halves":
        """Split the data of a spec: the first half of the classes is the source.

        Raises
        ------
        ValueError
            If there are fewer than four classes, of which two make a half.
        """
        samples = {split: workplace.samples(spec, split=split) for split in SPLITS}
        count = samples["train"].num_classes
        if count < 4:
            raise ValueError(f"`data` must have at least 4 classes, two for each half, got {count} in {spec}")
        halves = range(count // 2), range(count // 2, count)
        source, target = ({split: _classes(own, half) for split, own in samples.items()} for half in halves)
        return cls(source, target)


@dataclass(frozen=True)
class Recipe:
    """How a source is trained.

    Attributes
    ----------
    channels : tuple of int
        Channels of each block of the network.
    width : int
        Features of its penultimate layer.
    epochs, batch_size : int
    learning_rate, weight_decay : float
        Settings of Adam; the learning rate falls along a cosine.
    """

    channels: tuple[int, ...]
    width: int
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 1e-4


def train_source(samples: LabelledData, recipe: Recipe, *, loss: Loss, num_projections: int, seed: int) -> SmallVGG:
    """A network trained on the source, with what comes behind its penultimate layer taken off: it gives features.

    Behind the penultimate layer are `num_projections` times Linear → ReLU of the same width and then a classifier; the
    contrastive loss has no classifier, and compares what the last projection gives.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = untrained(samples, recipe)
        layers = [layer for _ in range(num_projections) for layer in (nn.Linear(recipe.width, recipe.width), nn.ReLU())]
        if loss != "contrastive":
            layers.append(nn.Linear(recipe.width, samples.num_classes))
        model.head = nn.Sequential(*layers)  # type: ignore[assignment]
        step = contrastive_loss if loss == "contrastive" else _supervised(loss)
        train(model, list(model.parameters()), samples, recipe, step)
    model.head = nn.Identity()  # type: ignore[assignment]
    return model


def untrained(samples: Labelled, recipe: Recipe) -> SmallVGG:
    """The network before training."""
    return SmallVGG(samples[0][0].shape[0], samples.num_classes, widths=recipe.channels, hidden=recipe.width)


def train(
    model: nn.Module,
    parameters: list[nn.Parameter] | list[dict[str, Any]],
    samples: LabelledData,
    recipe: Recipe,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    before_step: Callable[[], object] | None = None,
    after_step: Callable[[int], object] | None = None,
) -> None:
    """Train some parameters of a model; batches follow from torch's random state.

    `neurocollapse.train.fit` has losses of class scores alone, and puts the whole model into training mode.

    Parameters
    ----------
    parameters
        As Adam takes them: parameters, or groups of them with learning rates of their own.
    before_step
        Puts the model into the mode in which it learns; default: training mode.
    after_step
        Takes the number of the step, from 1, while its gradients are there.
    """
    optimizer = torch.optim.Adam(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    batches = max(1, len(samples) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, recipe.epochs * batches))
    step = 0
    with in_mode(model, "unchanged"):
        for _ in range(recipe.epochs):
            for rows in torch.randperm(len(samples)).tensor_split(batches):
                (before_step or model.train)()
                optimizer.zero_grad()
                loss(model(samples.inputs[rows]), samples.labels[rows]).backward()
                optimizer.step()
                schedule.step()
                step += 1
                if after_step is not None:
                    after_step(step)


def contrastive_loss(features: Tensor, labels: Tensor) -> Tensor:
    r"""The supervised contrastive loss of a batch, L_out.

    .. math:: \frac1{|I|} \sum_{i \in I} \frac{-1}{|P(i)|} \sum_{p \in P(i)}
        \log \frac{\exp(z_i^\top z_p/\tau)}{\sum_{a \ne i} \exp(z_i^\top z_a/\tau)},

    with z of unit length, P(i) the other samples of i's class, and I the samples that have such.

    References
    ----------
    Khosla et al., Supervised contrastive learning, NeurIPS 2020, Eq. 2.
    """
    unit = functional.normalize(features, dim=1)
    own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    logits = (unit @ unit.T / TEMPERATURE).masked_fill(own, -torch.inf)
    alike = (labels[:, None] == labels) & ~own
    chances = functional.log_softmax(logits, dim=1).masked_fill(~alike, 0.0).sum(dim=1)
    count = alike.sum(dim=1)
    return -(chances / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


def described(words: tuple[str, str, str]) -> dict[str, str]:
    """The attributes of a variable, of its long name, symbol and convention."""
    long_name, symbol, convention = words
    return {"long_name": long_name, "units": "1", "symbol": symbol, "convention": convention}


def _supervised(loss: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of a classifier."""
    return lambda outputs, labels: loss_of(outputs, labels, loss)


def _classes(samples: Labelled, chosen: range) -> LabelledData:
    """The samples of some classes, numbered from 0."""
    rows = ((samples.labels >= chosen.start) & (samples.labels < chosen.stop)).nonzero().flatten().tolist()
    inputs = torch.stack([samples[row][0] for row in rows])
    classes = samples.classes[chosen.start : chosen.stop]
    return LabelledData(inputs, samples.labels[rows] - chosen.start, classes, f"{samples.name}: {classes[0]} …")
