"""Full-batch gradient descent with weight decay, step by step as the theorems state it."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neurocollapse.support.arrays import tensor
from neurocollapse.support.checks import file_path, integer, non_negative_number, number, positive_number, shown
from neurocollapse.train.descent_file import Course, DescentFile
from neurocollapse.train.digests import tensor_digest
from neurocollapse.train.events import Journal, checked_events, journals
from neurocollapse.train.settings import TrainingError
from neurocollapse.train.squared_error import Engine, LinearEngine, ModuleEngine, Objective

DESCENT_EVENTS = ("on_start", "on_step", "on_end")

LearningRate = float | Callable[[int], float]


@dataclass(frozen=True, eq=False)
class DescentProgress:
    """The state of gradient descent at a step, as every event receives it.

    Attributes
    ----------
    step
        Number of finished updates: 0 at the initial weights.
    loss
        The objective at these weights.
    weights
        The live weights (the module's trainable parameters, in its own order); clone what you keep.
    """

    step: int
    loss: float
    weights: Sequence[Tensor] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Descent:
    """The result of a run of gradient descent.

    Attributes
    ----------
    weights : tuple of Tensors
        The final weights.
    losses : Tensor of shape (steps + 1,), float64
        The objective before every update and at the end, those of an earlier part of a resumed run included.
    step : int
        Number of updates.
    converged : bool
        Whether the loss fell to the tolerance.
    """

    weights: tuple[Tensor, ...] = field(repr=False)
    losses: Tensor = field(repr=False)
    step: int
    converged: bool

    @property
    def loss(self) -> float:
        """The last loss."""
        return float(self.losses[-1])


class Trajectory(dict[int, list[Tensor]]):
    """Copies of the weights along a run: step → [W_1, …]; hand it over as an event.

    Parameters
    ----------
    every : int, default 1
        Keep steps 0, every, 2·every, …
    steps : iterable of int, optional
        Keep these steps instead.

    Examples
    --------
    >>> trajectory = Trajectory(every=2)
    >>> result = descend([torch.eye(2)], torch.eye(2), torch.zeros(2, 2), learning_rate=0.5, num_steps=4,
    ...                  events={"on_step": trajectory})
    >>> [(step, float(weights[0][0, 0])) for step, weights in trajectory.items()]
    [(0, 1.0), (2, 0.25), (4, 0.0625)]
    """

    def __init__(self, *, every: int = 1, steps: Iterable[int] | None = None) -> None:
        super().__init__()
        self.every = integer("every", every, least=1)
        self.steps = None if steps is None else frozenset(steps)

    def __call__(self, progress: DescentProgress) -> None:
        """Copy the weights if this step is one to keep."""
        wanted = progress.step % self.every == 0 if self.steps is None else progress.step in self.steps
        if wanted:
            self[progress.step] = [weight.detach().clone() for weight in progress.weights]


def descend(
    model: nn.Module | Sequence[Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    learning_rate: LearningRate,
    num_steps: int,
    weight_decay: float = 0.0,
    reduction: str = "half_sum",
    output_scale: float = 1.0,
    tolerance: float = 0.0,
    events: Mapping[str, Callable[[DescentProgress], object]] | None = None,
    resume: str | Path | None = None,
    save_every: int = 1000,
) -> Descent:
    r"""Minimise the squared error by full-batch gradient descent with weight decay.

    .. math:: W_l \leftarrow (1 - \eta\lambda) W_l - \eta \nabla_{W_l} \tfrac12 \|\alpha f(X) - Y\|_F^2,

    all layers at once, without momentum, mini-batches or clipping.

    Parameters
    ----------
    model
        The weights [W_1, …, W_L] of a deep linear network, each (out, in): copied, computed in float64, with gradients
        in closed form. Or any module: its trainable parameters are updated in place through autograd, in their dtype.
    inputs : Tensor of shape (samples, features)
        Data, a row per sample.
    targets : Tensor of shape (samples, outputs)
        What the outputs should be, a row per sample.
    learning_rate
        η, or a function of the step.
    num_steps
        The most updates to take.
    weight_decay : float, default 0.0
        λ ≥ 0.
    reduction : str, default "half_sum"
        "half_sum" is ½ Σ over all entries (above), "half_mean" divides it by their number, "sum_over_samples" is Σ/N.
    output_scale : float, default 1.0
        α, a constant factor on the network's output.
    tolerance : float, default 0.0
        Stop as soon as the loss is at most this.
    events : mapping, optional
        "on_start", "on_step" (at every weight set, the first and last included) and "on_end" → function of a
        `DescentProgress`.
    resume : path-like, optional
        A safetensors file, written every `save_every` steps and at the end; if it exists, the run continues from it and
        ends like an unbroken one. A run that ends before there is a file leaves a module as it was.
    save_every : int, default 1000
        Steps between two writings of that file.

    Raises
    ------
    TrainingError
        If the loss stops being finite, shapes do not fit, or `resume` holds something else: another network, other
        data or settings, or more updates than asked for.

    Examples
    --------
    >>> result = descend([torch.eye(2)], torch.eye(2), 3 * torch.eye(2), learning_rate=1.0, num_steps=1)
    >>> result.weights[0].diag().tolist(), result.losses.tolist()
    ([3.0, 3.0], [4.0, 0.0])
    """
    checked = checked_events(events, DESCENT_EVENTS)
    inputs, targets = tensor("inputs", inputs), tensor("targets", targets)
    if inputs.ndim < 2 or targets.ndim != 2 or len(inputs) != len(targets) or not targets.numel():
        raise TrainingError(
            "`inputs` and `targets` must hold one row per sample, got shapes "
            f"{tuple(inputs.shape)} and {tuple(targets.shape)}"
        )
    tolerance = number("tolerance", tolerance)
    num_steps, save_every = integer("num_steps", num_steps, least=0), integer("save_every", save_every, least=1)
    rate = learning_rate if callable(learning_rate) else _constant(learning_rate)
    decay = non_negative_number("weight_decay", weight_decay)
    engine = _engine(model, inputs, targets, Objective.of(reduction, output_scale, targets))
    settings = {"weight_decay": decay, "reduction": reduction, "output_scale": float(output_scale)}
    file = None if resume is None else _file(Path(file_path("resume", resume)), inputs, targets, settings)
    course = Course([], [])
    if file is not None and file.path.exists():
        course = file.restore(engine.parameters, rate, num_steps=num_steps, tolerance=tolerance)
    run = _Run(engine, rate, decay, tolerance, checked, file, save_every)
    with torch.no_grad(), file.undone_until_written(engine.parameters) if file else nullcontext():
        return run.to(num_steps, course)


@dataclass
class _Run:
    """One run of gradient descent."""

    engine: Engine
    rate: Callable[[int], float]
    weight_decay: float
    tolerance: float
    events: dict[str, Callable[[DescentProgress], object]]
    file: DescentFile | None
    save_every: int

    def to(self, num_steps: int, course: Course) -> Descent:
        """Take updates until `num_steps` or the tolerance is reached."""
        step = first = len(course.losses)
        known = journals(self.events)
        while True:
            loss = self.engine.loss()
            if not math.isfinite(loss):
                raise TrainingError(f"the loss is {loss} at step {step}; use a smaller learning rate")
            progress = DescentProgress(step, loss, self.engine.parameters)
            if step == first:
                self._start(progress, known)
            self._tell("on_step", progress)
            converged = loss <= self.tolerance
            if converged or step >= num_steps:
                break
            if self.file is not None and step > first and step % self.save_every == 0:
                self._save(self.file, course, progress, known)
            rate = self.rate(step)
            self.engine.update(rate, self.weight_decay)
            course.losses.append(loss)
            course.rates.append(float(rate))
            step += 1
        if self.file is not None:
            self._save(self.file, course, progress, known)
        self._tell("on_end", progress)
        weights = tuple(weight.detach().contiguous() for weight in self.engine.parameters)  # as safetensors needs
        return Descent(
            weights, torch.tensor([*course.losses, loss], dtype=torch.float64, device="cpu"), step, converged
        )

    def _save(self, file: DescentFile, course: Course, progress: DescentProgress, known: Sequence[Journal]) -> None:
        """Write the files of the events, then the one that says how far the run has come."""
        for journal in known:
            journal.commit(progress)
        file.save(self.engine.parameters, course)

    def _start(self, progress: DescentProgress, known: Sequence[Journal]) -> None:
        """Tell the events that the run starts; those with files of their own, where it goes on."""
        for journal in known if progress.step else ():
            journal.resume(progress)
        if not (progress.step and isinstance(self.events.get("on_start"), Journal)):
            self._tell("on_start", progress)

    def _tell(self, event: str, progress: DescentProgress) -> None:
        """Call the event's function if there is one."""
        if event in self.events:
            self.events[event](progress)


def cosine(start: float, end: float, num_steps: int) -> Callable[[int], float]:
    """Half a cosine from `start` at step 0 down to `end` at `num_steps`, constant afterwards.

    Parameters
    ----------
    start, end : float
        Values at step 0, and from `num_steps` on.
    num_steps : int
        Steps of the descent.

    Examples
    --------
    >>> rate = cosine(1.0, 0.0, 10)
    >>> rate(0), round(rate(5), 12), rate(20)
    (1.0, 0.5, 0.0)
    """
    return lambda step: end + (start - end) * (1 + math.cos(math.pi * min(step / num_steps, 1.0))) / 2


def _constant(learning_rate: float) -> Callable[[int], float]:
    """Turn a number into a schedule."""
    rate = positive_number("learning_rate", learning_rate)
    return lambda step: rate


def _file(path: Path, inputs: Tensor, targets: Tensor, settings: dict[str, Any]) -> DescentFile:
    """Return the file that keeps a run with these settings on these data."""
    return DescentFile(path, {**settings, "inputs": tensor_digest(inputs), "targets": tensor_digest(targets)})


def _engine(model: nn.Module | Sequence[Tensor], inputs: Tensor, targets: Tensor, objective: Objective) -> Engine:
    """Choose closed form or autograd; check that the weights fit."""
    if isinstance(model, nn.Module):
        return ModuleEngine(model, inputs, targets, objective)
    if not isinstance(model, Sequence) or isinstance(model, str | bytes):
        raise TypeError(f"`model` must be a module or a list of weight matrices, got {shown(model)}")
    weights = [tensor("model", weight).double().clone() for weight in model]
    if any(weight.ndim != 2 for weight in weights):
        raise TrainingError("`model` must hold matrices only, one per layer")
    widths = [inputs.shape[1], *(weight.shape[0] for weight in weights)]
    for layer, weight in enumerate(weights):
        if weight.ndim != 2 or weight.shape[1] != widths[layer]:
            raise TrainingError(
                f"weight {layer + 1} must take {widths[layer]} features, got shape {tuple(weight.shape)}"
            )
    if not weights or widths[-1] != targets.shape[1]:
        raise TrainingError(f"the last weight must give {targets.shape[1]} outputs as `targets` has, got {widths[-1]}")
    device = weights[0].device
    return LinearEngine(weights, inputs.detach().to(device).double(), targets.detach().to(device).double(), objective)
