"""A run of gradient descent on disk: weights, losses and learning rates, and what the run was made of."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurocollapse.support.state import read_state, write_state
from neurocollapse.train.settings import TrainingError

KIND = "descent"


@dataclass(frozen=True)
class Course:
    """Losses before the updates taken so far, and their learning rates."""

    losses: list[float]
    rates: list[float]


@dataclass(frozen=True)
class DescentFile:
    """The file from which a run goes on, and the settings and data that it must have been written with."""

    path: Path
    settings: Mapping[str, Any]

    def save(self, weights: Sequence[Tensor], course: Course) -> None:
        """Write everything in one step, so that no reader finds half a file."""
        tensors = {f"weight/{layer:04d}": weight for layer, weight in enumerate(weights)}
        tensors["losses"] = torch.tensor(course.losses, dtype=torch.float64, device="cpu")
        tensors["rates"] = torch.tensor(course.rates, dtype=torch.float64, device="cpu")
        write_state(self.path, KIND, {"settings": dict(self.settings)}, tensors, error=TrainingError)

    def restore(
        self, weights: Sequence[Tensor], rate: Callable[[int], float], *, num_steps: int, tolerance: float
    ) -> Course:
        """Copy saved weights into place and return the course so far, or say why this run cannot continue from them."""
        header, tensors = read_state(self.path, KIND, error=TrainingError)
        saved = [tensors[name] for name in sorted(tensors) if name.startswith("weight/")]
        losses = tensors["losses"].tolist()
        rates = [float(rate(step)) for step in range(len(losses))]
        if [weight.shape for weight in saved] != [weight.shape for weight in weights]:
            raise TrainingError(
                f"{self.path} belongs to another network: its weights have other shapes; choose another file"
            )
        difference = (
            _beyond(losses, num_steps, tolerance)
            or _other_dtype(saved, weights)
            or self._other_settings(header["settings"])
            or _other_rate(tensors, rates)
        )
        if difference:
            advice = "use the same settings and data, or another file"
            raise TrainingError(f"`resume` file {self.path} was written with {difference}; {advice}")
        with torch.no_grad():
            for weight, value in zip(weights, saved, strict=True):
                weight.copy_(value)
        return Course(losses, rates)

    @contextmanager
    def undone_until_written(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """Put the weights back if the block fails before there is a file to continue from: the run will start again."""
        start = [] if self.path.exists() else [weight.detach().clone() for weight in weights]
        try:
            yield
        except BaseException:
            if not self.path.exists():
                with torch.no_grad():
                    for weight, value in zip(weights, start, strict=True):
                        weight.copy_(value)
            raise

    def _other_settings(self, saved: Mapping[str, Any]) -> str | None:
        """Say in which of the settings it differs."""
        for name, value in self.settings.items():
            if saved.get(name) != value:
                return (
                    f"other {name}" if name in ("inputs", "targets") else f"{name}={saved.get(name)!r}, not {value!r}"
                )
        return None


def _beyond(losses: Sequence[float], num_steps: int, tolerance: float) -> str | None:
    """Say how the file is further along than this run would go."""
    if len(losses) > num_steps:
        return f"{len(losses)} updates, more than num_steps={num_steps}"
    if any(loss <= tolerance for loss in losses):
        return f"updates beyond tolerance={tolerance:g}"
    return None


def _other_dtype(saved: Sequence[Tensor], weights: Sequence[Tensor]) -> str | None:
    """Say if weights are kept in another precision."""
    for before, weight in zip(saved, weights, strict=True):
        if before.dtype != weight.dtype:
            return f"weights in {before.dtype}, not {weight.dtype}"
    return None


def _other_rate(tensors: Mapping[str, Tensor], rates: Sequence[float]) -> str | None:
    """Say at which step the learning rate differs."""
    for step, (before, rate) in enumerate(zip(tensors["rates"].tolist(), rates, strict=True)):
        if before != rate:
            return f"learning rate {before!r} at step {step}, not {rate!r}"
    return None
