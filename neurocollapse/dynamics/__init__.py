"""How weights move: spectra and singular subspaces over training."""

from neurocollapse.dynamics.errors import TrackerError
from neurocollapse.dynamics.leading import LeadingSVD, leading_svd
from neurocollapse.dynamics.matrices import named_matrices
from neurocollapse.dynamics.spectra import imbalance, stable_rank, weight_effective_rank
from neurocollapse.dynamics.subspaces import orthonormal_range, principal_angles, vector_angles
from neurocollapse.dynamics.tracker import WeightTracker

__all__ = [
    "LeadingSVD",
    "TrackerError",
    "WeightTracker",
    "imbalance",
    "leading_svd",
    "named_matrices",
    "orthonormal_range",
    "principal_angles",
    "stable_rank",
    "vector_angles",
    "weight_effective_rank",
]
