"""Gradient descent on a chain of matrices for any recovery problem: full, compressed and narrow networks alike."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from neurocollapse.lowrank.network import Compressed
from neurocollapse.lowrank.problem import Problem, relative_error
from neurocollapse.models.linear import DeepLinear, check_chain
from neurocollapse.train.descent import DescentProgress
from neurocollapse.train.settings import check_choice


class Diverged(ValueError):
    """The loss stopped being finite."""


@dataclass(frozen=True, eq=False)
class Recovery:
    """A finished run of gradient descent.

    Attributes
    ----------
    weights : tuple of Tensors
        The chain [W_1, …, W_L] at the end.
    steps : Tensor of shape (checks,), int64
        Updates at which the loss was checked.
    losses : Tensor of shape (checks,), float64
    test_errors : Tensor of shape (checks,), float64
        ‖error‖/‖values‖ on the test problem; NaN without one, or if its values are all zero.
    num_steps
        How many updates were made.
    converged
        Whether the loss fell to the tolerance.
    seconds
        Wall time of the updates, without tests and watching.
    """

    weights: tuple[Tensor, ...] = field(repr=False)
    steps: Tensor = field(repr=False)
    losses: Tensor = field(repr=False)
    test_errors: Tensor = field(repr=False)
    num_steps: int
    converged: bool
    seconds: float

    @property
    def loss(self) -> float:
        """The last loss."""
        return float(self.losses[-1])

    @property
    def test_error(self) -> float:
        """The last test error."""
        return float(self.test_errors[-1])


def recover(
    problem: Problem,
    model: Compressed | DeepLinear | Sequence[Tensor],
    *,
    learning_rate: float,
    outer_rate: float = 1.0,
    num_steps: int,
    tolerance: float = 0.0,
    every: int = 50,
    test: Problem | None = None,
    events: Mapping[str, Callable[[DescentProgress], object]] | None = None,
) -> Recovery:
    r"""Recover a matrix by full-batch gradient descent on the factors of a deep linear network.

    .. math:: W_l \leftarrow W_l - \eta_l \nabla_{W_l} \tfrac{c}{2} \textstyle\sum e^2,
              \qquad \eta_l = \gamma\eta \text{ for the first and last factor, } \eta \text{ between them},

    in closed form and float64. A network of inner width k costs O(|Ω| k + (m + n) k²) a step, and its end-to-end matrix
    is not formed in completion. With γ = 0 the outer factors are frozen and a step needs one product less.

    Parameters
    ----------
    problem
        A `Factorization`, `Completion` or `Sensing`; it names the reduction of the loss.
    model
        The start: a `Compressed` network, or the weights of a wide or a narrow one. Not changed.
    learning_rate
        η, in the units of the problem's reduction.
    outer_rate : float, default 1.0
        γ ≥ 0, the discrepant rate of the outer factors. 1 for networks that are not compressed.
    num_steps
        The most updates to make.
    tolerance : float, default 0.0
        Stop when the loss is at most this at a check.
    every : int, default 50
        Check loss and tolerance every so many updates, before the update, and at the end.
    test : problem, optional
        Another problem of the same shape whose relative error is measured at the checks, such as the hidden entries.
    events : mapping, optional
        "on_check" → function of a `DescentProgress`, called at the checks with the live weights [W_1, …, W_L]; clone
        what you keep. A `WeightTracker` is such a function.

    Raises
    ------
    ValueError
        If the network does not fit the problem or a setting is out of range.
    Diverged
        If the loss stops being finite at a check.

    Examples
    --------
    >>> from neurocollapse.lowrank import Factorization
    >>> target = torch.diag(torch.tensor([2.0, 1.0]))
    >>> start = [0.1 * torch.eye(2), 0.1 * torch.eye(2)]
    >>> found = recover(Factorization(target), start, learning_rate=0.1, num_steps=500, tolerance=1e-12)
    >>> found.converged, round(float((found.weights[1] @ found.weights[0])[0, 0]), 5)
    (True, 2.0)
    """
    for name, value in (("learning_rate", learning_rate), ("outer_rate", outer_rate)):
        if not (math.isfinite(value) and value >= 0) or (name == "learning_rate" and value == 0):
            raise ValueError(f"`{name}` must be a finite number {'>' if name[0] == 'l' else '≥'} 0, got {value!r}")
    if num_steps < 0 or every < 1:
        raise ValueError(f"need num_steps ≥ 0 and every ≥ 1, got {num_steps} and {every}")
    for name in events or {}:
        check_choice("events", name, ("on_check",))
    if test is not None and test.shape != problem.shape:
        raise ValueError(f"`test` must have the problem's shape {problem.shape}, got {test.shape}")
    with torch.no_grad():
        chain = _Chain(_fitting(model, problem))
        record = _Record(chain, problem, test, (events or {}).get("on_check"))
        rates = (learning_rate * problem.scale, outer_rate * learning_rate * problem.scale)
        for step in range(num_steps + 1):
            errors = problem.residual(chain.outer(), chain.right)
            if (step % every == 0 or step == num_steps) and record.check(step, errors) <= tolerance:
                break
            if step < num_steps:
                chain.update(problem, *rates)
        return record.recovery(tolerance)


def first_gradient(problem: Problem, model: DeepLinear | Sequence[Tensor]) -> Tensor:
    """The gradient of the loss with respect to W_1 at these weights, which `compress` needs.

    Parameters
    ----------
    problem : problem
        What the network is trained on: a Factorization, Completion or Sensing.
    model : DeepLinear or sequence of Tensor
        The network at its start, or its weights [W_1, …, W_L].

    Returns
    -------
    Tensor of W_1's shape, float64

    Examples
    --------
    >>> from neurocollapse.lowrank import Factorization
    >>> first_gradient(Factorization(torch.eye(2)), [torch.eye(2), 3 * torch.eye(2)])
    tensor([[6., 0.],
            [0., 6.]], dtype=torch.float64)
    """
    with torch.no_grad():
        chain = _Chain(_fitting(model, problem))
        outer = chain.outer()
        problem.residual(outer, chain.right)
        return problem.scale * problem.transposed_times(outer).T


class _Chain:
    """The weights A C_p ⋯ C_1 Bᵀ of a network, with what one step needs of them."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.right = weights[0].detach().double().T.clone(memory_format=torch.contiguous_format)
        self.cores = [weight.detach().double().clone(memory_format=torch.contiguous_format) for weight in weights[1:-1]]
        self.left = weights[-1].detach().double().clone(memory_format=torch.contiguous_format)
        self._prefixes: list[Tensor] = []
        self._outer = self.left

    @property
    def weights(self) -> list[Tensor]:
        """[W_1, …, W_L], the live tensors."""
        return [self.right.T, *self.cores, self.left]

    def outer(self) -> Tensor:
        """A C_p ⋯ C_1, of shape (outputs, k)."""
        self._prefixes = self.cores[:1]  # C_1, C_2 C_1, …
        for core in self.cores[1:]:
            self._prefixes.append(core @ self._prefixes[-1])
        self._outer = self.left @ self._prefixes[-1] if self.cores else self.left
        return self._outer

    def update(self, problem: Problem, rate: float, outer_rate: float) -> None:
        """One step at the weights of the last call of `outer` and of the problem's residual."""
        image = problem.times(self.right)
        changes = self._core_gradients(self.left.T @ image) if self.cores else []
        if outer_rate:
            pulled = problem.transposed_times(self._outer)
            if self.cores:
                self.left.addmm_(image, self._prefixes[-1].T, alpha=-outer_rate)
            else:
                self.left.sub_(image, alpha=outer_rate)
            self.right.sub_(pulled, alpha=outer_rate)
        for core, change in zip(self.cores, changes, strict=True):
            core.sub_(change, alpha=rate)

    def _core_gradients(self, pulled: Tensor) -> list[Tensor]:
        """(C_p ⋯ C_{l+1})ᵀ (Aᵀ E B) (C_{l−1} ⋯ C_1)ᵀ for every core, from the last to the first and turned round."""
        changes = []
        for layer in reversed(range(len(self.cores))):
            changes.append(pulled @ self._prefixes[layer - 1].T if layer else pulled)
            if layer:
                pulled = self.cores[layer].T @ pulled
        return changes[::-1]


class _Record:
    """What is known at the checks, and the time between them."""

    def __init__(
        self,
        chain: _Chain,
        problem: Problem,
        test: Problem | None,
        event: Callable[[DescentProgress], object] | None,
    ) -> None:
        self.chain, self.problem, self.test, self.event = chain, problem, test, event
        self.rows: list[tuple[int, float, float]] = []
        self.seconds, self._since = 0.0, time.perf_counter()

    def check(self, step: int, errors: Tensor) -> float:
        """Stop the clock, note loss and test error, show the weights, start the clock; returns the loss."""
        self.seconds += time.perf_counter() - self._since
        flat = errors.flatten()
        loss = 0.5 * self.problem.scale * float(torch.dot(flat, flat))
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss} at step {step}; use a smaller learning_rate")
        error = math.nan
        if self.test is not None:
            error = relative_error(self.test, self.chain.outer(), self.chain.right)
        if self.event is not None:
            self.event(DescentProgress(step, loss, self.chain.weights))
        self.rows.append((step, loss, error))
        self._since = time.perf_counter()
        return loss

    def recovery(self, tolerance: float) -> Recovery:
        """The record as a value."""
        steps, losses, errors = zip(*self.rows, strict=True)
        return Recovery(
            weights=tuple(weight.clone(memory_format=torch.contiguous_format) for weight in self.chain.weights),
            steps=torch.tensor(steps, device="cpu"),
            losses=torch.tensor(losses, dtype=torch.float64, device="cpu"),
            test_errors=torch.tensor(errors, dtype=torch.float64, device="cpu"),
            num_steps=steps[-1],
            converged=losses[-1] <= tolerance,
            seconds=self.seconds,
        )


def _fitting(model: Compressed | DeepLinear | Sequence[Tensor], problem: Problem) -> list[Tensor]:
    """The weights of a network, checked against the problem's shape."""
    weights = model.weights if isinstance(model, Compressed | DeepLinear) else list(model)
    check_chain(weights)
    ends = (int(weights[-1].shape[0]), int(weights[0].shape[1]))
    if len(weights) < 2 or ends != problem.shape:
        raise ValueError(
            f"`model` must have at least two weights and map {problem.shape[1]} inputs to {problem.shape[0]} outputs "
            f"as the target's shape says, got {len(weights)} from {ends[1]} to {ends[0]}"
        )
    return weights
