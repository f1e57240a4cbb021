"""Full precision for our own float32 products, whatever the user has chosen for the model's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_BACKENDS: tuple[Any, ...] = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
_HAS_BACKEND_SETTINGS = all(hasattr(backend, "fp32_precision") for backend in _BACKENDS)
"""From torch 2.9 on each backend has a setting of its own, and the common one cannot be read once they differ."""


@contextmanager
def full_matmul_precision() -> Iterator[None]:
    """Multiply float32 matrices in float32 inside: bfloat16 or TF32 would leave three digits of a covariance."""
    if not _HAS_BACKEND_SETTINGS:
        with _common_setting():
            yield
        return
    chosen = [backend.fp32_precision for backend in _BACKENDS]
    try:
        for backend in _BACKENDS:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(_BACKENDS, chosen, strict=True):
            backend.fp32_precision = precision


@contextmanager
def _common_setting() -> Iterator[None]:
    """The same for torch before 2.9."""
    chosen = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        yield
    finally:
        torch.set_float32_matmul_precision(chosen)
