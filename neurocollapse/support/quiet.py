"""Using a model, or torch, without a trace: what a block changes is restored, however the block ends."""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import torch
from torch import nn

from neurocollapse.support.choices import Mode
from neurocollapse.support.undo import undoing


@contextmanager
def in_mode(model: nn.Module, mode: Mode = "eval") -> Iterator[None]:
    """Use a model in a mode, and put back the mode of each of its modules, also of those that the block changed.

    Parameters
    ----------
    model
        The model, or a part of one.
    mode
        "unchanged" leaves it to the block.

    Examples
    --------
    >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with in_mode(model):
    ...     [module.training for module in model]
    [False, False]
    >>> [module.training for module in model]
    [True, False]
    """
    modes = [(module, module.training) for module in model.modules()]
    with undoing() as undo:
        undo.add(_set_modes, modes)
        if mode == "train":
            model.train()  # a model may let parts of it stay in eval mode
        elif mode == "eval":  # not model.eval(), in which some do more than that, such as merging their adapters
            _set_modes([(module, False) for module, _ in modes])
        yield


def _set_modes(modes: list[tuple[nn.Module, bool]]) -> None:
    """Put modules into training mode or out of it, each by itself."""
    for module, training in modes:
        module.training = training


@contextmanager
def without_warnings(category: type[Warning]) -> Iterator[None]:
    """Ignore warnings of one kind, and put the filters back, also where an interrupt lands in that."""
    manager = warnings.catch_warnings()
    with undoing() as undo:
        undo.add(_leave, manager)
        manager.__enter__()
        warnings.simplefilter("ignore", category)
        yield


def _leave(manager: AbstractContextManager[object]) -> None:
    """Leave a manager of warnings, once or again, if it was entered."""
    with suppress(RuntimeError):
        manager.__exit__(None, None, None)


def kept_random_state(*devices: torch.device) -> AbstractContextManager[None]:
    """Put back torch's random state, of the CPU and of the CUDA devices among those given."""
    return torch.random.fork_rng({device for device in devices if device.type == "cuda"})


def seed_random_state(seed: int, device: torch.device) -> None:
    """Seed what `kept_random_state` puts back and nothing else; torch.manual_seed would seed every device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: for networks so small that more gain nothing, and stall where others compute."""
    with undoing() as undo:
        undo.add(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        yield
