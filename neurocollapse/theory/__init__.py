"""Theorems about deep linear networks: assumptions measured, bounds evaluated, verdicts given."""

from neurocollapse.theory.assumptions import Assumption
from neurocollapse.theory.attribution import attribution
from neurocollapse.theory.balance_bound import balanced_compression
from neurocollapse.theory.blocks import Tail
from neurocollapse.theory.certified import CertifiedCompression, certified_compression
from neurocollapse.theory.conditions import EXACT, PRACTICAL, Exactness
from neurocollapse.theory.invariant import InvariantSubspaces, invariant_subspaces, predicted_scale
from neurocollapse.theory.parsimony import verify_parsimony
from neurocollapse.theory.posterior import PosteriorCertificate, posterior_certificate
from neurocollapse.theory.prediction import predicted_compression
from neurocollapse.theory.printed import PrintedBounds, printed_bounds
from neurocollapse.theory.prior import PriorCertificate, prior_certificate
from neurocollapse.theory.problem import LinearProblem
from neurocollapse.theory.progressive import THEOREMS, verify
from neurocollapse.theory.robust import RobustCertificate, robust_certificate
from neurocollapse.theory.separation_bound import separation_bounds
from neurocollapse.theory.smooth_mlp import ACTIVATIONS, SmoothSubspaces, smooth_subspaces
from neurocollapse.theory.split import SplitCertificate
from neurocollapse.theory.theorem import Bracket, Case, Theorem
from neurocollapse.theory.verdict import TheoremResult, Verdict, Verification

__all__ = [
    "ACTIVATIONS",
    "EXACT",
    "PRACTICAL",
    "THEOREMS",
    "Assumption",
    "Bracket",
    "Case",
    "CertifiedCompression",
    "Exactness",
    "InvariantSubspaces",
    "LinearProblem",
    "PosteriorCertificate",
    "PrintedBounds",
    "PriorCertificate",
    "RobustCertificate",
    "SmoothSubspaces",
    "SplitCertificate",
    "Tail",
    "Theorem",
    "TheoremResult",
    "Verdict",
    "Verification",
    "attribution",
    "balanced_compression",
    "certified_compression",
    "invariant_subspaces",
    "posterior_certificate",
    "predicted_compression",
    "predicted_scale",
    "printed_bounds",
    "prior_certificate",
    "robust_certificate",
    "separation_bounds",
    "smooth_subspaces",
    "verify",
    "verify_parsimony",
]
