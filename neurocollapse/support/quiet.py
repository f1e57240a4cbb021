"""Using a model, or torch, without a trace: what a block changes is afterwards as it was, however the block ends."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch
from torch import nn

Mode = Literal["eval", "train", "unchanged"]
"""Mode of a model while it is used."""


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
    try:
        if mode == "train":
            model.train()  # a model may let parts of it stay in eval mode
        elif mode == "eval":
            for module, _ in modes:  # not model.eval(), in which some do more than that, such as merging their adapters
                module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


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
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
