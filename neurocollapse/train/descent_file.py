"""A run of gradient descent on disk: weights, losses and learning rates, and what the run was made of."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from neurocollapse.support.atomic import replacing
from neurocollapse.train.settings import TrainingError

HEADER = "neurocollapse_descent"


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
        tensors = {f"weight/{layer:04d}": weight.detach().cpu().contiguous() for layer, weight in enumerate(weights)}
        tensors["losses"] = torch.tensor(course.losses, dtype=torch.float64)
        tensors["rates"] = torch.tensor(course.rates, dtype=torch.float64)
        header = json.dumps({"num_weights": len(weights), "settings": dict(self.settings)})
        try:
            with replacing(self.path) as part:
                save_file(tensors, part, metadata={HEADER: header})
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"cannot write the checkpoint {self.path}: {error}") from error

    def restore(
        self, weights: Sequence[Tensor], rate: Callable[[int], float], *, num_steps: int, tolerance: float
    ) -> Course:
        """Copy saved weights into place and return the course so far, or say why this run cannot go on from them."""
        settings, tensors = self._read()
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
            or self._other_settings(settings)
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
        """Put the weights back if the block fails before there is a file to go on from: the run will start anew."""
        start = [] if self.path.exists() else [weight.detach().clone() for weight in weights]
        try:
            yield
        except BaseException:
            if not self.path.exists():
                with torch.no_grad():
                    for weight, value in zip(weights, start, strict=True):
                        weight.copy_(value)
            raise

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the settings, empty in files of earlier versions, and the tensors."""
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                if HEADER not in metadata:
                    raise TrainingError(f"{self.path} does not hold a run of gradient descent; choose another file")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"{self.path} is not a readable safetensors file ({error}); delete it to start anew"
            ) from error
        return json.loads(metadata[HEADER]).get("settings", {}), tensors

    def _other_settings(self, saved: Mapping[str, Any]) -> str | None:
        """Say in which of the settings that the file knows it differs."""
        for name, value in self.settings.items():
            if name in saved and saved[name] != value:
                return f"other {name}" if name in ("inputs", "targets") else f"{name}={saved[name]!r}, not {value!r}"
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
    saved = tensors["rates"].tolist() if "rates" in tensors else rates
    for step, (before, rate) in enumerate(zip(saved, rates, strict=True)):
        if before != rate:
            return f"learning rate {before!r} at step {step}, not {rate!r}"
    return None
