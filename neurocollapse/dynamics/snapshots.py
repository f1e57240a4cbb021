"""Copies of matrices, made as cheaply as possible while training waits, until there are enough to analyse."""

from collections.abc import Sequence

import torch
from torch import Tensor

from neurocollapse.dynamics.errors import TrackerError
from neurocollapse.dynamics.layout import Layout

BLOCK_BYTES = 2**24
"""Copies are analysed when they fill 16 MiB: their decompositions take several times that."""
MOST_ROWS = 1024


class Snapshots:
    """A buffer of copies of the same matrices at several steps.

    Matrices of one shape, dtype and device are copied together, in one operation.

    Parameters
    ----------
    layout
        Which matrices.
    matrices
        The matrices as they are now, for their precision and place.
    """

    def __init__(self, layout: Layout, matrices: Sequence[Tensor]) -> None:
        self.layout = layout
        self.steps: list[int] = []
        size = sum(matrix.numel() * matrix.element_size() for matrix in matrices)
        self.capacity = max(1, min(MOST_ROWS, BLOCK_BYTES // max(size, 1)))
        groups: dict[tuple[torch.Size, torch.dtype, torch.device], list[int]] = {}
        for index, matrix in enumerate(matrices):
            groups.setdefault((matrix.shape, matrix.dtype, matrix.device), []).append(index)
        self._shapes = [torch.Size(shape) for shape in layout.shapes]
        with torch.inference_mode(False):  # a buffer made in inference mode could not be written to outside of it
            self._groups = [
                (indices, torch.empty(self.capacity, len(indices), *shape, dtype=dtype, device=device))
                for (shape, dtype, device), indices in groups.items()
            ]
            self._rows = [(indices, buffer.unbind()) for indices, buffer in self._groups]

    @property
    def full(self) -> bool:
        """Whether the next copy has no room."""
        return len(self.steps) == self.capacity

    def add(self, step: int, matrices: Sequence[Tensor]) -> None:
        """Copy the matrices as they are at a step.

        Raises
        ------
        TrackerError
            If they are not those of the layout.
        """
        shapes = [matrix.shape for matrix in matrices]
        if shapes != self._shapes:
            raise TrackerError(
                f"at step {step} the weights have shapes {list(map(tuple, shapes))}, not {list(self.layout.shapes)}; "
                "use a new tracker for another network"
            )
        row = len(self.steps)
        for indices, rows in self._rows:
            torch.stack([matrices[index] for index in indices], out=rows[row])
        self.steps.append(step)

    def take(self) -> tuple[list[int], list[Tensor]]:
        """All steps and, a layer, a view of its copies (steps, rows, columns); the buffer is then free again."""
        steps, self.steps = self.steps, []
        stacks: dict[int, Tensor] = {}
        for indices, buffer in self._groups:
            for position, index in enumerate(indices):
                stacks[index] = buffer[: len(steps), position]
        return steps, [stacks[index] for index in range(len(self._shapes))]
