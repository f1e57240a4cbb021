"""A model in which a layer and the head are trained, and all else is frozen."""

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from neurocollapse.hooks.wrappers import forget_compiled, named_modules, unwrap
from neurocollapse.support.state import write_state
from neurocollapse.support.text import listed
from neurocollapse.transfer.errors import TransferError
from neurocollapse.transfer.plain import with_skip
from neurocollapse.transfer.skip import Skip, SkipHooks

FILE_KIND = "tuned layers"


class Tuned(Mapping[str, nn.Module]):
    """The trained part of a model, by name: some layers, the head, and a skip connection if there is one.

    Made by `layer_finetune`, `skip_finetune` and `load_tuned`. The model stays the module that it was, and is trained
    and called as ever; use `train` in place of ``model.train()``, which would let frozen running statistics move.

    Attributes
    ----------
    model : torch.nn.Module
        The whole model, frozen but for what is trained.
    modules : mapping of str to torch.nn.Module
        What is trained, by name: the entries of this mapping.
    skip : Skip or None, default None
        The connection that is added, see `skip_finetune`.

    Examples
    --------
    >>> from neurocollapse.transfer import layer_finetune
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> tuned = layer_finetune(model, "2")
    >>> tuned
    Tuned(2, 4: 90 of 130 parameters, 69.2 %)
    >>> optimizer = torch.optim.SGD(tuned.parameters(), lr=0.1)
    >>> model = tuned.merge()
    """

    def __init__(self, model: nn.Module, modules: Mapping[str, nn.Module], skip: Skip | None = None) -> None:
        self.model = model
        self.skip = skip
        self._modules = dict(modules)
        own = {id(part) for module in modules.values() for part in module.modules()}
        self._fixed = {name: module for name, module in named_modules(model) if id(module) not in own}
        self._buffers = {name: buffer.detach().clone() for name, buffer in self._fixed_buffers()}
        trained = {id(parameter) for parameter in self.parameters()}
        self._before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        for parameter, _ in self._before:
            if parameter.is_floating_point():
                parameter.requires_grad_(id(parameter) in trained)
        self._hooks = None
        if skip is not None:
            self._hooks = SkipHooks(skip, unwrap(model), modules[skip.layer], modules[skip.head])
        self._is_on = True
        forget_compiled(model)

    def __getitem__(self, name: str) -> nn.Module:
        return self._modules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def parameters(self) -> list[nn.Parameter]:
        """The parameters of the trained modules, each once, as an optimizer takes them."""
        found = {id(one): one for module in self.values() for one in module.parameters() if one.is_floating_point()}
        return list(found.values())

    @property
    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def share(self) -> float:
        """Trained parameters over all parameters of the model, in (0, 1]."""
        return self.num_parameters / sum(parameter.numel() for parameter in self.model.parameters())

    def train(self) -> None:
        """Put the model into training mode, except for the frozen modules that keep running statistics."""
        self.model.train()
        for module in self._fixed.values():
            if module._buffers and not module._modules:
                module.eval()

    def save(self, path: str | PathLike[str]) -> Path:
        """Write what was trained, and the skip, to one safetensors file, without the frozen rest of the model.

        Parameters
        ----------
        path : path
            File to write, by convention with the ending .safetensors.

        Raises
        ------
        TransferError
            If the file cannot be written, what was trained holds NaN, or running statistics of frozen modules have
            moved, so that the file would not give the model's outputs back.
        """
        self._check_frozen()
        tensors = self.state()
        bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
        if bad:
            raise TransferError(f"{listed(bad)} hold NaN or infinite numbers; train again from the start")
        header = {"modules": list(self), "skip": None if self.skip is None else vars(self.skip)}
        write_state(path, FILE_KIND, header, tensors, error=TransferError)
        return Path(path)

    def state(self) -> dict[str, Tensor]:
        """The trained modules' parameters and buffers, by their names in the model."""
        return {
            f"{name}.{key}": value.detach().clone().contiguous()
            for name, module in self.items()
            for key, value in module.state_dict().items()
        }

    def merge(self) -> nn.Module:
        """Unfreeze the model and return it as a plain module with the same outputs.

        Without a skip that is the model itself. With one it is a `torch.fx.GraphModule` of the same modules, in which
        the connection is a part of the forward pass; the hooks are then off the model, which loses the skip.

        Raises
        ------
        TransferError
            If it is off already, running statistics of frozen modules have moved, or the forward pass of a model with a
            skip cannot be traced. Then nothing has been changed.
        """
        self._check_on()
        self._check_frozen()
        plain = self.model if self.skip is None else with_skip(unwrap(self.model), self.skip)
        self.remove()
        return plain

    def remove(self) -> None:
        """Remove the skip, and let every parameter be trainable or frozen as it was; what was trained stays trained.

        Raises
        ------
        TransferError
            If it is off already.
        """
        self._check_on()
        if self._hooks is not None:
            self._hooks.remove()
        for parameter, trainable in self._before:
            parameter.requires_grad_(trainable)
        self._is_on = False
        forget_compiled(self.model)

    def _fixed_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """The buffers of frozen modules."""
        for name, module in self._fixed.items():
            for key, buffer in module.named_buffers(recurse=False):
                yield (f"{name}.{key}" if name else key), buffer

    def _check_frozen(self) -> None:
        """Raise if running statistics of frozen modules have moved."""
        moved = [
            name
            for name, buffer in self._fixed_buffers()
            if name in self._buffers and not torch.equal(buffer, self._buffers[name].to(buffer.device))
        ]
        if moved:
            raise TransferError(
                f"{listed(moved)} moved, although these modules are frozen; start again from the original model, and "
                "call tuned.train() instead of model.train()"
            )

    def _check_on(self) -> None:
        """Raise unless the model is tuned by this."""
        if not self._is_on:
            raise TransferError("the model is no longer tuned by this: merged or removed already; start a new one")

    def __repr__(self) -> str:
        total = sum(parameter.numel() for parameter in self.model.parameters())
        skip = "" if self.skip is None else ", with a skip connection"
        return (
            f"Tuned({', '.join(self)}: {self.num_parameters:,} of {total:,} parameters, {100 * self.share:.1f} %{skip})"
        )
