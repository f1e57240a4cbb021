"""How weights move: singular subspaces over training."""

from neurocollapse.dynamics.subspaces import orthonormal_range, principal_angles

__all__ = ["orthonormal_range", "principal_angles"]
