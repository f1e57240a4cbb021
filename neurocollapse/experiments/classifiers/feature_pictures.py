"""Features of the layers of a hybrid perceptron in two dimensions: the classes separate, then shrink."""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from neurocollapse.data import Labelled
from neurocollapse.experiments.classifiers.perceptrons import Perceptron, train_perceptron
from neurocollapse.experiments.experiment import Experiment, at_least, at_most
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.hooks import capture
from neurocollapse.metrics import compression
from neurocollapse.models import HybridMLP
from neurocollapse.passes.analyze import analyze
from neurocollapse.plots.embedding import embedder
from neurocollapse.plots.experiments.feature_pictures import feature_pictures_figure
from neurocollapse.probes import nearest_class_mean_accuracy
from neurocollapse.statistics import ClassMoments
from neurocollapse.theory import Verdict
from neurocollapse.train import evaluate

TRAINED = 0.95
"""Training accuracy from which the network counts as trained."""
SEPARATE = 0.98
"""Accuracy of the nearest class mean from which the classes count as separate."""
QU = "Qu, slides of 7 September 2023"


@dataclass(frozen=True)
class FeaturePictures:
    """Setting of the experiment.

    Attributes
    ----------
    data : str
        A data spec.
    num_nonlinear, num_linear : int
        Hidden layers of either kind.
    pictured : tuple of int
        Layers to show, ascending, 0 the input; the layer `num_nonlinear`, where separation ends, is among them.
    methods : tuple of str
        "pca", "tsne", and "umap" where UMAP is installed.
    num_samples : int
        Training samples in each picture.
    width : int
        Features of every hidden layer.
    init_scale : float
        ε of the orthogonal initial weights.
    epochs, batch_size : int
    optimizer, learning_rate, weight_decay, loss
        Options of `fit`; the learning rate falls to a hundredth along a cosine.
    seed : int
        Seed of weights, batches, samples and methods.
    """

    data: str = "digits"
    num_nonlinear: int = 3
    num_linear: int = 4
    pictured: tuple[int, ...] = (0, 1, 3, 7)
    methods: tuple[str, ...] = ("pca", "tsne")
    num_samples: int = 400
    width: int = 256
    init_scale: float = 0.45
    epochs: int = 40
    batch_size: int = 128
    optimizer: str = "adam"
    learning_rate: float = 5e-4
    weight_decay: float = 1e-4
    loss: str = "mse"
    seed: int = 0

    def __post_init__(self) -> None:
        last = self.num_nonlinear + self.num_linear
        ascending = list(self.pictured) == sorted(set(self.pictured))
        if not (ascending and self.pictured and self.pictured[0] >= 0 and self.pictured[-1] <= last):
            raise ValueError(f"`pictured` must be ascending layers in [0, {last}], got {self.pictured}")
        if not self.pictured[0] < self.num_nonlinear < self.pictured[-1] or self.num_nonlinear not in self.pictured:
            raise ValueError(
                f"`pictured` must hold layer {self.num_nonlinear}, the last nonlinear one, one before and one after "
                f"it, got {self.pictured}"
            )


def feature_pictures(setting: FeaturePictures, workplace: Workplace) -> xr.Dataset:
    """Train the network, draw each pictured layer's features in two dimensions, and measure what the pictures show.

    Returns
    -------
    xarray.Dataset
        `points` (embedding, layer, sample, component) and `note` (embedding, layer), `label` (sample); along `layer`
        the `compression` and `separation` of all training samples and the accuracy of the nearest class mean on
        the pictured ones, `ncm_accuracy`; `picture_compression` (embedding, layer): D of the points themselves.
    """
    embedders = {method: embedder(method) for method in setting.methods}  # fails before training if one is missing
    samples = workplace.samples(setting.data)
    network = Perceptron("hybrid", setting.num_nonlinear, setting.num_linear)
    model, _ = train_perceptron(network, setting, samples, workplace)
    everything = analyze(
        model, samples.loader(500), layers="layers.*", include_input=True, progress=workplace.progress
    ).isel(layer=list(setting.pictured))
    features, labels = _features(model, samples, setting)
    pictures = [[embed(layer, setting.seed) for layer in features] for embed in embedders.values()]
    points = np.array([[picture[0] for picture in row] for row in pictures])
    along, units = ("embedding", "layer"), {"units": "1"}
    return xr.Dataset(
        {
            "points": ((*along, "sample", "component"), points, {"long_name": "place in the picture", **units}),
            "note": (along, np.array([[note for _, note in row] for row in pictures])),
            "label": ("sample", labels, {"long_name": "class", **units}),
            "compression": ("layer", everything["compression"].values, everything["compression"].attrs),
            "separation": ("layer", everything["separation"].values, everything["separation"].attrs),
            "ncm_accuracy": (
                "layer",
                [nearest_class_mean_accuracy(layer, labels, layer, labels).train for layer in features],
                {"long_name": "nearest class mean, on the pictured samples", **units},
            ),
            "picture_compression": (
                along,
                [[_compression(layer, labels) for layer in row] for row in points],
                {"long_name": "compression of the points", "convention": "tr Σ_W / tr Σ_B", **units},
            ),
            "train_accuracy": ((), evaluate(model, samples).accuracy, {"long_name": "training accuracy", **units}),
        },
        {
            "embedding": list(setting.methods),
            "layer": ("layer", list(setting.pictured), {"long_name": "layer, 0 is the input"}),
            "class_name": ("class", [str(name) for name in samples.classes]),
        },
        {"num_nonlinear": setting.num_nonlinear},
    )


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """The classes are separate by the last nonlinear layer, and shrink from picture to picture."""
    accuracy = float(dataset["train_accuracy"])
    unmet = [] if accuracy >= TRAINED else [f"the network is not trained: training accuracy {accuracy:.3f}"]
    since = int(dataset.attrs["num_nonlinear"])
    read, spread = dataset["ncm_accuracy"], dataset["compression"].values
    gained = dataset["separation"].sel(layer=since) - dataset["separation"][0]
    shrunk = float((spread[1:] / spread[:-1]).max())
    verdicts = [
        at_least(
            f"the classes are separate at layer {since}: accuracy of the nearest class mean",
            QU,
            float(read.sel(layer=since)),
            SEPARATE,
            unmet=unmet,
        ),
        at_least("on the way there S rises: S less that of the first picture", QU, float(gained), 0.1, unmet=unmet),
        at_most("D falls from picture to picture: its largest ratio", QU, shrunk, 1.0, unmet=unmet),
        at_most(
            f"most of a class's extent goes after they are separate: last D over that of layer {since}",
            QU,
            float(spread[-1] / dataset["compression"].sel(layer=since)),
            0.5,
            unmet=unmet,
        ),
    ]
    for method in dataset["embedding"].values:
        drawn = dataset["picture_compression"].sel(embedding=method).values
        claim = f"the {method} pictures show it: D of the last picture's points over the first's"
        verdicts.append(at_most(claim, QU, float(drawn[-1] / drawn[0]), 0.5, unmet=unmet))
    return verdicts


def _features(model: HybridMLP, samples: Labelled, setting: FeaturePictures) -> tuple[list[np.ndarray], np.ndarray]:
    """Features of the pictured layers for samples drawn with the seed, and their labels."""
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(setting.seed))
    chosen = samples.subset(order[: setting.num_samples])
    inputs, labels = next(iter(chosen.loader(len(chosen))))
    model.eval()
    with torch.no_grad(), capture(model, "layers.*") as hidden:
        model(inputs)
    layers = [inputs.flatten(1), *hidden.values()]
    return [layers[index].double().numpy() for index in setting.pictured], labels.numpy()


def _compression(points: np.ndarray, labels: np.ndarray) -> float:
    """D of the points of one picture."""
    return compression(ClassMoments.from_features(points, labels))


EXPERIMENT = Experiment(
    name="feature-pictures",
    shows="In pictures of the features the classes separate first, and shrink to points after that.",
    source="Qu, slides of 7 September 2023: features of each layer by PCA and t-SNE",
    small=FeaturePictures(),
    paper=FeaturePictures(data="mnist", num_samples=2000),
    durations=("20 s", "several minutes"),
    run=feature_pictures,
    draw=feature_pictures_figure,
    claims=claims,
)
