"""Numbers of a layer from its class moments: each a pure function, and an entry that knows itself."""

from neurocollapse.metrics.alignment import cka, class_cka
from neurocollapse.metrics.catalogue import FAMILIES, QUANTITIES, chosen_quantities
from neurocollapse.metrics.collapse import (
    cdnv,
    cdnv_max,
    gnc2,
    gnc2_variation,
    nc2_angles,
    nc2_distance,
    nc2_norms,
    nc2_orthogonal,
    nc2_simplex,
)
from neurocollapse.metrics.decay import GeometricDecay, decay_ratio, geometric_decay
from neurocollapse.metrics.decisions import nc4, ncm_error
from neurocollapse.metrics.depth import effective_depth, probe_depth
from neurocollapse.metrics.detectors import mahalanobis, max_softmax
from neurocollapse.metrics.duality import nc3, nc3_product, nc3_raw, unc3
from neurocollapse.metrics.fuzziness import Fuzziness, fuzziness, nc1
from neurocollapse.metrics.geometry import discrimination, separation
from neurocollapse.metrics.imbalance import minority_angle, seli_distance
from neurocollapse.metrics.layer import Layer, Network, Rows
from neurocollapse.metrics.margin import one_vs_rest_margin
from neurocollapse.metrics.margin_efficiency import MarginEfficiency, margin_efficiency
from neurocollapse.metrics.matrices import class_cdnv, class_cosine, class_distance
from neurocollapse.metrics.measure import measure
from neurocollapse.metrics.outside import nc5, neco
from neurocollapse.metrics.plasticity import dead_share, dormant_share, feature_norm
from neurocollapse.metrics.quantity import PrecisionWarning, Quantity, QuantityError
from neurocollapse.metrics.samples import SampleWarning
from neurocollapse.metrics.spectrum import (
    lidar,
    participation_ratio,
    participation_ratio_corrected,
    spectral_decay,
    stable_rank,
    total_spectrum,
)
from neurocollapse.metrics.transferability import few_shot_bound, h_score, vci
from neurocollapse.metrics.tree import layer_tree
from neurocollapse.metrics.unbiased import (
    cdnv_unbiased,
    compression_unbiased,
    discrimination_unbiased,
    separation_unbiased,
)
from neurocollapse.metrics.variability import (
    between_class_covariance,
    between_trace,
    compression,
    total_trace,
    within_class_covariance,
    within_trace,
)
from neurocollapse.metrics.weighting import Weighting

__all__ = [
    "FAMILIES",
    "QUANTITIES",
    "Fuzziness",
    "GeometricDecay",
    "Layer",
    "MarginEfficiency",
    "Network",
    "PrecisionWarning",
    "Quantity",
    "QuantityError",
    "Rows",
    "SampleWarning",
    "Weighting",
    "between_class_covariance",
    "between_trace",
    "cdnv",
    "cdnv_max",
    "cdnv_unbiased",
    "chosen_quantities",
    "cka",
    "class_cdnv",
    "class_cka",
    "class_cosine",
    "class_distance",
    "compression",
    "compression_unbiased",
    "dead_share",
    "decay_ratio",
    "discrimination",
    "discrimination_unbiased",
    "dormant_share",
    "effective_depth",
    "feature_norm",
    "few_shot_bound",
    "fuzziness",
    "geometric_decay",
    "gnc2",
    "gnc2_variation",
    "h_score",
    "layer_tree",
    "lidar",
    "mahalanobis",
    "margin_efficiency",
    "max_softmax",
    "measure",
    "minority_angle",
    "nc1",
    "nc2_angles",
    "nc2_distance",
    "nc2_norms",
    "nc2_orthogonal",
    "nc2_simplex",
    "nc3",
    "nc3_product",
    "nc3_raw",
    "nc4",
    "nc5",
    "ncm_error",
    "neco",
    "one_vs_rest_margin",
    "participation_ratio",
    "participation_ratio_corrected",
    "probe_depth",
    "seli_distance",
    "separation",
    "separation_unbiased",
    "spectral_decay",
    "stable_rank",
    "total_spectrum",
    "total_trace",
    "unc3",
    "vci",
    "within_class_covariance",
    "within_trace",
]
