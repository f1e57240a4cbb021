"""The training loop: one function, named events, and nothing random that does not follow from its seed."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from neurocollapse.support.checks import file_path, flag, shown
from neurocollapse.support.progress import progress_bar
from neurocollapse.support.quiet import in_mode, kept_random_state, seed_random_state
from neurocollapse.train.batch import check_outputs, class_indices
from neurocollapse.train.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from neurocollapse.train.digests import data_digests
from neurocollapse.train.events import Event, Journal, Progress, checked_events, journals
from neurocollapse.train.samples import check_data, collated
from neurocollapse.train.settings import Settings, TrainingError, loss_of


@dataclass(frozen=True)
class History:
    """Mean loss and accuracy of each epoch over its training samples, measured batch by batch in train mode.

    Parameters
    ----------
    loss : tuple of float, default empty
        One mean per epoch.
    accuracy : tuple of float, default empty
        One per epoch, in [0, 1].
    """

    loss: tuple[float, ...] = ()
    accuracy: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.loss)

    def extended(self, loss: float, accuracy: float) -> "History":
        """Return the history with one more epoch.

        Parameters
        ----------
        loss, accuracy : float
            Means over the epoch.
        """
        return History((*self.loss, loss), (*self.accuracy, accuracy))


def fit(
    model: nn.Module,
    data: Dataset[Any],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    optimizer: str = "adam",
    weight_decay: float = 0.0,
    momentum: float | None = None,
    schedule: str = "constant",
    loss: str = "cross_entropy",
    seed: int = 0,
    events: Mapping[str, Event] | None = None,
    resume: str | Path | None = None,
    progress: bool = True,
) -> History:
    """Train a classifier in place and return its loss and accuracy per epoch.

    The order of the samples and everything random in the model (dropout) follow from `seed`; the global random state
    and each module's train or eval mode are afterwards what they were, after an error or Ctrl-C too.

    Parameters
    ----------
    model
        Maps inputs (samples, …) to class scores (samples, classes); trained where its parameters are.
    data
        A map-style dataset of (input, label) pairs with integer labels.
    epochs, batch_size
        Passes over the data, and samples per update. A last batch of a single sample joins the one before it, because
        batch normalisation cannot train on it.
    learning_rate
        Step size at the start.
    optimizer : str, default "adam"
        "sgd", "momentum" (SGD with momentum), "adam" or "adamw".
    weight_decay : float, default 0.0
        As in torch.optim.
    momentum : float, optional
        As in torch.optim. Default: 0.9 for "momentum" and 0 for "sgd".
    schedule : str, default "constant"
        "constant", or "cosine": half a cosine over all steps, from `learning_rate` down to a hundredth of it.
    loss : str, default "cross_entropy"
        "cross_entropy", or "mse": (1/N) Σ_i ‖f(x_i) − y_i‖² to the one-hot y, summed over classes, no factor ½.
    seed : int, default 0
        Seed of the run.
    events : mapping, optional
        Functions of a `Progress`, by name: on_start, before_epoch, after_batch, after_epoch, on_end. They may look at
        the model and run it in eval mode; that changes nothing in the training. A `WeightTracker` writes its file
        before the `resume` file is written, and goes on with it.
    resume : path-like, optional
        A file that keeps the finished epochs: written after each, and continued from where it exists. The result is
        that of the unbroken run to the last bit; so a run that ends before there is a file leaves the model as it was.
    progress : bool, default True
        Show a bar, where standard error is a terminal.

    Raises
    ------
    TrainingError
        If the loss stops being finite, labels are not integers, the outputs do not fit them, or `resume` belongs to
        another run: other settings, data or number formats, or more epochs than asked for.

    Examples
    --------
    >>> from neurocollapse import data, models
    >>> digits, model = data.open("digits"), models.mlp(64, 32, 10, depth=1)
    >>> fit(model, digits, epochs=2, batch_size=64, learning_rate=1e-2).accuracy[-1] > 0.9
    True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {shown(model)}")
    momentum = Settings.default_momentum(optimizer) if momentum is None else momentum
    settings = Settings(
        epochs, batch_size, optimizer, learning_rate, weight_decay, momentum, schedule, loss, seed
    )  # fmt: skip
    checked, progress = checked_events(events), flag("progress", progress)
    check_data(data)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise TrainingError(f"`model` must have parameters that require gradients, {type(model).__name__} has none")
    run = _Run(model, data, settings, settings.build_optimizer(parameters), checked, parameters[0].device)
    with _left_as_found(model, run.device), torch.enable_grad():
        return _train(run, None if resume is None else Path(file_path("resume", resume)), progress)


@dataclass
class _Run:
    """A run under way: what stays the same, the count of steps, and checksums of the data where a file is kept."""

    model: nn.Module
    data: Any
    settings: Settings
    optimizer: torch.optim.Optimizer
    events: Mapping[str, Event]
    device: torch.device
    step: int = 0
    digests: Mapping[str, int] = field(default_factory=dict)

    @property
    def batches_per_epoch(self) -> int:
        return len(_batches(torch.arange(len(self.data), device="cpu"), self.settings.batch_size))

    @property
    def journals(self) -> list[Journal]:
        """The events that keep files of their own."""
        return journals(self.events)

    def emit(self, name: str, epoch: int, loss: float, accuracy: float) -> None:
        """Call one event."""
        if name in self.events:
            self.tell(self.events[name], epoch, loss, accuracy)

    def tell(self, event: Event, epoch: int, loss: float, accuracy: float) -> None:
        """Call a function so that looking does not change training: random state and train mode are put back."""
        with kept_random_state(self.device):
            event(Progress(epoch, self.step, loss, accuracy, self.model))
        self.model.train()

    def start(self, history: History, *, resumed: bool) -> None:
        """Tell the events that training starts; those with files of their own, where it goes on.

        A crash behind the last save may have kept a journal from the end of that epoch: it is told again.
        """
        latest = len(history), *_latest(history)
        for journal in self.journals if resumed else ():
            self.tell(journal.resume, *latest)
            if self.events.get("after_epoch") is journal:
                self.emit("after_epoch", *latest)
        if not (resumed and isinstance(self.events.get("on_start"), Journal)):
            self.emit("on_start", *latest)


def _train(run: _Run, resume: Path | None, progress: bool) -> History:
    """Run the epochs that are still missing."""
    history = History()
    if resume is not None:
        run.digests = data_digests(run.data, run.device)
        history = _continue_from(resume, run) if resume.exists() else history
    run.model.train()
    run.start(history, resumed=run.step > 0)
    epochs = range(len(history), run.settings.epochs)
    about: dict[str, Any] = {"desc": "training", "unit": "epoch", "total": run.settings.epochs, "initial": len(history)}
    with progress_bar(epochs, shown=progress, **about) as bar:
        for epoch in bar:
            run.emit("before_epoch", epoch, *_latest(history))
            with _undone_if_nothing_is_kept(run, resume):
                history = history.extended(*_train_epoch(run, epoch))
                if resume is not None:
                    _save(resume, run, history)  # the commit: an epoch that is not in this file is repeated
            run.emit("after_epoch", epoch + 1, *_latest(history))
            bar.set_postfix(loss=f"{history.loss[-1]:.2e}", accuracy=f"{history.accuracy[-1]:.1%}", refresh=False)
    run.emit("on_end", len(history), *_latest(history))
    return history


def _train_epoch(run: _Run, epoch: int) -> tuple[float, float]:
    """Train on every sample once, in an order and with random numbers that follow from seed and epoch alone."""
    order = torch.Generator().manual_seed(_epoch_seed(run.settings.seed, 2 * epoch))
    seed_random_state(_epoch_seed(run.settings.seed, 2 * epoch + 1), run.device)
    batches = _batches(torch.randperm(len(run.data), generator=order, device="cpu"), run.settings.batch_size)
    total_loss, num_correct = 0.0, 0
    run.model.train()
    for inputs, labels in DataLoader(run.data, batch_sampler=batches, generator=order, collate_fn=collated):
        loss, correct = _update(run, inputs.to(run.device), class_indices(labels).to(run.device), epoch)
        total_loss += loss * len(labels)
        num_correct += correct
        run.emit("after_batch", epoch, loss, correct / len(labels))
    return total_loss / len(run.data), num_correct / len(run.data)


def _update(run: _Run, inputs: Tensor, labels: Tensor, epoch: int) -> tuple[float, int]:
    """Make one optimizer step; return the batch's loss and its number of correct predictions, both before the step."""
    num_steps = run.settings.epochs * run.batches_per_epoch
    for group in run.optimizer.param_groups:
        group["lr"] = run.settings.learning_rate_at(run.step, num_steps)
    run.optimizer.zero_grad(set_to_none=True)
    outputs = run.model(inputs)
    check_outputs(outputs, labels)
    loss = loss_of(outputs, labels, run.settings.loss)
    value = loss.item()
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss became {value} in epoch {epoch}, step {run.step} (both counted from 0); "
            f"try a smaller learning rate than learning_rate={run.settings.learning_rate:g}"
        )
    loss.backward()
    run.optimizer.step()
    run.step += 1
    return value, int((outputs.argmax(dim=1) == labels).sum())


def _batches(order: Tensor, batch_size: int) -> list[list[int]]:
    """Cut an order into batches; a single left-over sample joins the last full batch."""
    batches = [part.tolist() for part in order.split(min(batch_size, len(order)))]
    if len(batches) > 1 and len(batches[-1]) == 1 < batch_size:
        batches[-2:] = [batches[-2] + batches[-1]]
    return batches


def _epoch_seed(seed: int, stream: int) -> int:
    """Return the seed of one stream of random numbers, different for every pair of seed and stream."""
    return (seed * 1_000_003 + stream) % 2**63


def _latest(history: History) -> tuple[float, float]:
    """Return the last epoch's loss and accuracy, NaN before the first."""
    return (history.loss[-1], history.accuracy[-1]) if len(history) else (math.nan, math.nan)


@contextmanager
def _left_as_found(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put back random state and every module's train or eval mode, and drop the gradients, however the block ends."""
    try:
        with kept_random_state(device), in_mode(model, "unchanged"):
            yield
    finally:
        model.zero_grad(set_to_none=True)


@contextmanager
def _undone_if_nothing_is_kept(run: _Run, resume: Path | None) -> Iterator[None]:
    """Undo a first batch that fails (it moves running statistics) or, in a new run with `resume`, a first epoch."""
    changing = list(run.model.buffers()) if run.step == 0 else []
    if run.step == 0 and resume is not None:
        changing += run.optimizer.param_groups[0]["params"]
    before = [(tensor, tensor.detach().clone()) for tensor in changing]
    try:
        yield
    except BaseException:
        if run.step == 0 or resume is not None:
            with torch.no_grad():
                for tensor, value in before:
                    tensor.copy_(value)
        raise


def _save(path: Path, run: _Run, history: History) -> None:
    """Write everything the next epoch depends on, the files of the events first."""
    for journal in run.journals:
        run.tell(journal.commit, len(history), *_latest(history))
    record = {"settings": asdict(run.settings), "num_samples": len(run.data), "step": run.step}
    record |= {"loss": history.loss, "accuracy": history.accuracy, "data": run.digests}
    save_checkpoint(path, run.model, epoch=len(history), optimizer=run.optimizer, record=record)


def _continue_from(path: Path, run: _Run) -> History:
    """Load a saved run into this one, or say in what it differs."""
    saved = load_checkpoint(path)
    try:
        history = History(tuple(saved.record["loss"]), tuple(saved.record["accuracy"]))
        step, difference = int(saved.record["step"]), _difference(saved, len(history), run)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path} holds no run of fit to resume; choose another file") from error
    if difference:
        raise TrainingError(
            f"`resume` file {path} was written with {difference}; use the same settings and data, or another file"
        )
    saved.restore(run.model, run.optimizer)
    run.step = step
    return history


def _difference(saved: Checkpoint, num_epochs: int, run: _Run) -> str | None:
    """Say in what a saved run cannot be the beginning of this one, or None."""
    if num_epochs > run.settings.epochs:
        return f"{num_epochs} finished epochs, more than epochs={run.settings.epochs}"
    if saved.record["num_samples"] != len(run.data):
        return f"{saved.record['num_samples']} samples, not {len(run.data)}"
    if changed := run.settings.difference(saved.record["settings"]):
        return changed
    known = saved.record.get("data", {})  # what the file does not know of the data cannot differ
    for name, digest in run.digests.items():
        if known.get(name, digest) != digest:
            return f"other {name}"
    for name, tensor in run.model.state_dict().items():
        dtype = saved.weights.get(name, tensor).dtype
        if dtype != tensor.dtype:
            return f"{name!r} in {dtype}, not {tensor.dtype}"
    return None
