"""Randomness of our own: seeded inside, and the caller's put back after."""

from contextlib import AbstractContextManager

import torch


def forked_random_state(device: torch.device) -> AbstractContextManager[None]:
    """Put torch's random state, of the CPU and of a CUDA device in use, back at the end of the block."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def seed_random_state(seed: int, device: torch.device) -> None:
    """Seed what `forked_random_state` puts back and nothing else; torch.manual_seed would seed every device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
