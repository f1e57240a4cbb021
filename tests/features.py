"""Labels and layouts of features that tests of several kernels share."""

import torch
from torch import Tensor

LAYOUTS = ("rows", "columns", "part", "every second", "negative")


def random_labels(num_samples: int, num_classes: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(num_classes, (num_samples,), generator=generator)


def laid_out(features: Tensor, layout: str) -> Tensor:
    """The same numbers in another place of memory."""
    rows, columns = features.shape
    if layout == "columns":  # one after the other
        return features.T.contiguous().T
    if layout == "part":  # of wider rows, at an odd address
        wide = features.new_full((rows + 1, columns + 3), torch.nan)
        wide[1:, 1 : columns + 1] = features
        return wide[1:, 1 : columns + 1]
    if layout == "every second":  # row and column
        wide = features.new_full((2 * rows, 2 * columns), torch.nan)
        wide[::2, ::2] = features
        return wide[::2, ::2]
    if layout == "negative":  # the imaginary part of a conjugate: the sign is a bit of the tensor
        return torch.complex(features, -features).conj().imag
    return features
