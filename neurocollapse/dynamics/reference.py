"""The singular vectors of one step, to which those of later steps are compared."""

from dataclasses import dataclass

import torch
from torch import Tensor

from neurocollapse.dynamics.layout import Layout
from neurocollapse.dynamics.subspaces import vector_angles


@dataclass(frozen=True, eq=False)
class Frame:
    """Singular vectors of one side of a weight at the reference step.

    Attributes
    ----------
    vectors : Tensor of shape (features, components)
        All of them, or the leading ones; NaN where the weight had no singular directions.
    middle : Tensor of shape (features, p)
        Those between the `edge` leading and the `edge` trailing ones.
    outside : Tensor of shape (features, features − p), or None
        Orthonormal basis of everything perpendicular to the middle, where that is the smaller part.
    """

    vectors: Tensor
    middle: Tensor
    outside: Tensor | None

    @property
    def is_known(self) -> bool:
        """Whether there is something to compare to."""
        return not bool(self.vectors.isnan().any())

    @classmethod
    def of(cls, vectors: Tensor, edge: int) -> "Frame":
        """The frame of singular vectors in descending order of their values."""
        middle = vectors[:, edge : vectors.shape[1] - edge]
        features, size = middle.shape
        if features - size > size:
            return cls(vectors, middle, None)
        full, _, _ = torch.linalg.svd(middle, full_matrices=True)
        return cls(vectors, middle, full[:, size:])

    def edge_angles(self, vectors: Tensor, edge: int) -> tuple[Tensor, Tensor]:
        """Angles of the leading and of the trailing vectors, (rows, edge) each, from the outside in."""
        reference = self.vectors.to(vectors.device)  # a file's is on the CPU
        leading = vector_angles(vectors[..., :edge], reference[:, :edge])
        trailing = vector_angles(vectors[..., vectors.shape[-1] - edge :], reference[:, reference.shape[1] - edge :])
        return leading, trailing.flip(-1)

    def middle_angle(self, vectors: Tensor, edge: int) -> Tensor:
        """Largest principal angle between the two middle blocks, of shape (rows,).

        The sine is the norm of the part of one that is outside the other; the cosine only serves near a right angle,
        where the sine is flat. NaN where there is no middle.
        """
        middle = vectors[..., edge : vectors.shape[-1] - edge]
        if middle.shape[-1] == 0:
            return vectors.new_full(vectors.shape[:-2], torch.nan)
        if self.outside is None:
            sine = _spectral_norm((middle - self.middle @ (self.middle.T @ middle)).mT)
        else:
            sine = _spectral_norm(self.outside.T @ middle)
        sine = sine.clamp(max=1.0)
        steep = sine.square() > 0.5
        angle = sine.asin()
        if not steep.any():
            return angle
        cosine = torch.linalg.svdvals(self.middle.T @ middle)[..., -1]
        return torch.where(steep, cosine.clamp(max=1.0).acos(), angle)


def _spectral_norm(matrix: Tensor) -> Tensor:
    """Largest singular value; the largest eigenvalue of a Gram matrix, unlike the others, loses no digits."""
    if matrix.shape[-2] == 0:
        return matrix.new_zeros(matrix.shape[:-2])
    return torch.linalg.eigvalsh(matrix @ matrix.mT)[..., -1].clamp(min=0.0).sqrt()


def frame_of(vectors: Tensor, layer: int, layout: Layout) -> Frame:
    """The frame of one side of a layer at the reference step; neither a sketch nor the unknown has a middle.

    The vectors are laid out as a file gives them back: products of another layout differ in their last bits.
    """
    vectors = vectors.clone(memory_format=torch.contiguous_format)
    if layout.sketched[layer] or vectors.isnan().any():
        return Frame(vectors, vectors[:, :0], None)
    return Frame.of(vectors, layout.edges[layer])
