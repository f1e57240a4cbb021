"""What of the sources has no run here, and why."""

from dataclasses import dataclass

LONG = "takes longer than was set aside"
FASHION = "Fashion-MNIST was not at hand"
REASONS = {
    "collapse-depth": "run in two parts; ReLU networks of ten layers did not end within 40 minutes on a shared core",
    "data-separation-law": FASHION,
    "depth-role": "Fashion-MNIST was not at hand; MNIST and CIFAR-10 at a reduced width stand in",
    "low-rank-mlp": "Fashion-MNIST and USPS were not at hand; a run on 8,000 images of MNIST stands in",
    "low-rank-mlp-subspace": FASHION,
    "hybrid-vs-mlp": "all of CIFAR-10 was not at hand; 5,000 of its images at a quarter of the width stand in",
    "penultimate-svd": "all of CIFAR-10 was not at hand; 5,000 of its images and 8,000 of MNIST stand in",
    "out-of-distribution": "all of CIFAR-10 was not at hand; runs on 5,000 of its images and 8,000 of MNIST stand in",
    "adapters-vision": "all of CIFAR-10 was not at hand; 8,000 images of MNIST and a narrower network stand in",
    "movielens": "the ratings of MovieLens-100k were not at hand",
    "deep-lora": "BERT and STS-B were not at hand; the small setting trains its own BERT on its own pairs",
}
"""Experiment → why its paper scale was not run, where time is not the reason."""


@dataclass(frozen=True)
class Skipped:
    """A part of a source that no setting of an experiment stands for.

    Attributes
    ----------
    experiment
        Where it would belong.
    what
        Sizes and printed numbers.
    reason, takes
        Why it was not run, and how long it would take.
    """

    experiment: str
    what: str
    reason: str
    takes: str


SKIPPED = (
    Skipped(
        "matrix-completion",
        "d = 1000, r = 5, 20 % observed, η = 5000: 43 s for the full network, 6 s for the compressed one [F]",
        "the times are of another machine; `--set size=1000 --set rank=5 --set fraction=0.2` runs it",
        "hours",
    ),
    Skipped(
        "adapters-vision",
        "ViT-B on CIFAR-10 and CIFAR-100 [S]",
        "needs pretrained weights of a ViT-B and a GPU",
        "hours on a GPU",
    ),
)
