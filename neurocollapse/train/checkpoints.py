"""A training run on disk: weights under their own names, the optimizer's tensors, and a JSON header. Never pickle."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neurocollapse.support.state import read_state, write_state
from neurocollapse.train.settings import TrainingError

KIND = "training"
OPTIMIZER_PREFIX = "optimizer/"  # no module or parameter name of the weights can begin so by accident: theirs use dots


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a training run after `epoch` epochs.

    Attributes
    ----------
    epoch
        Number of finished epochs.
    weights
        The model's state: name → tensor.
    optimizer
        The optimizer's state: (number of the parameter, name of the quantity) → tensor.
    record
        Whatever else was stored with it.
    """

    epoch: int
    weights: Mapping[str, Tensor]
    optimizer: Mapping[tuple[int, str], Tensor]
    record: Mapping[str, Any]

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Copy the weights, and the optimizer's state, into place.

        Parameters
        ----------
        model : torch.nn.Module
            Takes the weights.
        optimizer : torch.optim.Optimizer, optional
            Takes the state that was saved with them. Default: only the weights are restored.

        Raises
        ------
        TrainingError
            If names or shapes differ from the model's; then nothing was copied.
        """
        _check_same_names(self.weights, model)
        model.load_state_dict(dict(self.weights))
        if optimizer is None:
            return
        state: dict[int, dict[str, Tensor]] = {}
        for (number, quantity), tensor in self.optimizer.items():
            state.setdefault(number, {})[quantity] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    *,
    epoch: int,
    optimizer: torch.optim.Optimizer | None = None,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Write a safetensors file in one step: a reader, or a killed writer, finds the old file or the new one.

    Parameters
    ----------
    path
        The file; its folder must exist.
    model : torch.nn.Module
        Its weights keep their names, so that any reader of safetensors finds them.
    optimizer : torch.optim.Optimizer, optional
        Its state is stored, too.
    epoch
        Number of finished epochs.
    record : mapping, optional
        Anything JSON can hold, to be stored with it.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "net.safetensors")
    >>> save_checkpoint(file, nn.Linear(3, 2), epoch=7)
    >>> load_checkpoint(file).epoch
    7
    """
    tensors = {name: _detached(name, value) for name, value in model.state_dict().items()}
    for number, quantities in (optimizer.state_dict()["state"] if optimizer else {}).items():
        for quantity, value in quantities.items():
            if value is not None:
                tensors[f"{OPTIMIZER_PREFIX}{number}/{quantity}"] = _detached(quantity, value)
    write_state(path, KIND, {"epoch": epoch, "record": dict(record or {})}, tensors, error=TrainingError)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a file that `save_checkpoint` wrote.

    Parameters
    ----------
    path : path-like
        The file to read.

    Raises
    ------
    TrainingError
        If there is no such file, or it is damaged or of another kind.
    """
    header, weights = read_state(path, KIND, error=TrainingError)
    optimizer: dict[tuple[int, str], Tensor] = {}
    for name in [name for name in weights if name.startswith(OPTIMIZER_PREFIX)]:
        number, quantity = name.removeprefix(OPTIMIZER_PREFIX).split("/")
        optimizer[int(number), quantity] = weights.pop(name)
    return Checkpoint(header["epoch"], weights, optimizer, header["record"])


def _detached(name: str, value: Any) -> Tensor:
    """A tensor of the state, or say what else it is."""
    if not isinstance(value, Tensor):
        raise TrainingError(f"only tensors can be stored, but the state {name!r} is a {type(value).__name__}")
    return value


def _check_same_names(weights: Mapping[str, Tensor], model: nn.Module) -> None:
    """Raise unless the weights are the model's by name and shape."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    saved = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in own.keys() | saved.keys():
        if own.get(name) != saved.get(name):
            raise TrainingError(
                f"the checkpoint belongs to another model: {name!r} has shape {saved.get(name, 'none')} in the file "
                f"and {own.get(name, 'none')} in the model"
            )
