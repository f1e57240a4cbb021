"""A deep linear network on labelled data, in float64, and the numbers of it that theorems speak about."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from neurocollapse.statistics import ClassMoments
from neurocollapse.support.arrays import tensor
from neurocollapse.support.checks import shown
from neurocollapse.theory.assumptions import DataGram, data_gram, second_moment_gram
from neurocollapse.theory.checks import check_biases, check_inputs, check_labels, check_weights
from neurocollapse.theory.spectrum import Spectrum, shifted, unit_scaled


@dataclass(frozen=True, eq=False)
class LinearProblem:
    """A chain of affine maps and the second moments of its data; everything float64 on the CPU.

    Every theorem here is about the within-class spread and the class means, so those are kept, and no samples.

    Attributes
    ----------
    weights : tuple of L Tensors, the l-th of shape (d_l, d_{l−1})
    biases : tuple of L Tensors, the l-th of shape (d_l,)
    spread : Tensor of shape (d₀, columns)
        R, or any matrix with the same RRᵀ = Σ_i (x_i − mean of its class)(…)ᵀ.
    class_means : Tensor of shape (d₀, classes present)
    counts : Tensor of shape (classes,)
        Samples of each class.
    gram
        How far the inputs are from orthonormal.
    spread_accuracy
        Relative accuracy of `spread`: 0 for one of samples, 1e−8 for a root of their covariance.
    output_scale
        α: the network's output is α W_{L:1} x.
    dtype
        What the weights came in.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    spread: Tensor
    class_means: Tensor
    counts: Tensor
    gram: DataGram
    spread_accuracy: float = 0.0
    output_scale: float = 1.0
    dtype: torch.dtype = torch.float64

    @classmethod
    def of(
        cls,
        weights: Sequence[Tensor],
        inputs: Tensor,
        labels: Tensor,
        *,
        biases: Sequence[Tensor] | None = None,
        output_scale: float = 1.0,
    ) -> "LinearProblem":
        """Check shapes and values, and convert them to float64.

        Parameters
        ----------
        weights : sequence of Tensor of shape (out, in)
            W_1 first.
        inputs : Tensor of shape (samples, d₀)
            What enters the first layer.
        labels : integer Tensor of shape (samples,)
            Classes below K, the number of outputs.
        biases : sequence of Tensor, optional
            One per weight. Default: none.
        output_scale : float, default 1.0
            α, by which the output of the product is multiplied.

        Raises
        ------
        ValueError
            If weights do not chain, do not fit the inputs, labels exceed the number of outputs, or a number is not
            finite.
        """
        if not isinstance(weights, Sequence) or isinstance(weights, str | bytes):
            raise TypeError(f"`model` must be a module or a list of weight matrices, got {shown(weights)}")
        weights = [tensor("model", weight) for weight in weights]
        if not weights:
            raise ValueError("`model` must hold at least one weight matrix, got none")
        inputs, labels = tensor("inputs", inputs), tensor("labels", labels)
        check_inputs(inputs)
        inputs = inputs.flatten(1)
        chain = _chain(weights, biases, inputs.shape[1], output_scale)
        num_classes = len(chain[0][-1])
        check_labels(labels, len(inputs), num_classes)
        columns, labels = inputs.cpu().double().T, labels.cpu().long()
        counts = torch.bincount(labels, minlength=num_classes)
        means = _class_means(columns, labels, counts)
        present = (counts > 0).long().cumsum(0) - 1
        residuals = columns - means[:, present[labels]]
        return cls(
            weights=chain[0],
            biases=chain[1],
            spread=_reduced(residuals),
            class_means=means,
            counts=counts,
            gram=data_gram(columns.T),
            output_scale=float(output_scale),
            dtype=chain[2],
        )

    @classmethod
    def of_moments(
        cls,
        weights: Sequence[Tensor],
        moments: ClassMoments,
        *,
        biases: Sequence[Tensor] | None = None,
        output_scale: float = 1.0,
    ) -> "LinearProblem":
        """Make the problem from moments of the inputs in place of the inputs.

        Parameters
        ----------
        weights : sequence of Tensor of shape (out, in)
            W_1 first.
        moments : ClassMoments
            Moments of the inputs, with their within-class scatter.
        biases : sequence of Tensor, optional
            One per weight. Default: none.
        output_scale : float, default 1.0
            α, by which the output of the product is multiplied.
        """
        if moments.within_scatter is None:
            raise ValueError("`moments` must hold the within-class scatter; collect them with covariance=True")
        weights = [torch.as_tensor(weight, device="cpu").detach() for weight in weights]
        chain = _chain(weights, biases, moments.num_features, output_scale)
        if moments.num_classes > len(chain[0][-1]):
            raise ValueError(f"the data have {moments.num_classes} classes, the network {len(chain[0][-1])} outputs")
        counts = torch.zeros(len(chain[0][-1]), dtype=torch.int64, device="cpu")
        counts[: moments.num_classes] = moments.count.cpu()
        means = moments.mean.cpu()[moments.present.cpu()].T
        values, basis = torch.linalg.eigh(moments.within_scatter.cpu())
        spread = basis * values.clamp(min=0).sqrt()
        problem = cls(
            weights=chain[0],
            biases=chain[1],
            spread=spread,
            class_means=means,
            counts=counts,
            gram=DataGram(math.nan, math.nan),
            spread_accuracy=math.sqrt(len(values) * torch.finfo(torch.float64).eps),
            output_scale=float(output_scale),
            dtype=chain[2],
        )
        return replace(problem, gram=second_moment_gram(problem.equivalent_inputs, problem.num_samples))

    @property
    def depth(self) -> int:
        """L, the number of weight matrices."""
        return len(self.weights)

    @property
    def num_classes(self) -> int:
        """K, the number of outputs."""
        return int(self.weights[-1].shape[0])

    @property
    def num_samples(self) -> int:
        """N."""
        return int(self.counts.sum())

    @property
    def widths(self) -> tuple[int, ...]:
        """(d₀, …, d_{L−1}), the features the theorems speak about."""
        return tuple(int(weight.shape[1]) for weight in self.weights)

    @property
    def samples_per_class(self) -> float:
        """n, or NaN when the classes differ in size."""
        return float(self.counts[0]) if bool((self.counts == self.counts[0]).all()) else math.nan

    @property
    def has_bias(self) -> bool:
        """Whether any entry of any bias but the last differs from 0."""
        return any(bool(bias.any()) for bias in self.biases[:-1])

    @property
    def centred_means(self) -> Tensor:
        """Class means less their mean, each class with equal weight: M."""
        return self.class_means - self.class_means.mean(1, keepdim=True)

    @cached_property
    def equivalent_inputs(self) -> Tensor:
        """[R, √n_k x̄_k], which is X times an isometry of sample space: the same XXᵀ, shape (d₀, columns)."""
        present = self.counts[self.counts > 0].double()
        return torch.cat([self.spread, self.class_means * present.sqrt()], 1)

    @cached_property
    def equivalent_targets(self) -> Tensor:
        """Y/α after the same isometry: what W_{L:1} has to make of `equivalent_inputs`, shape (K, columns)."""
        targets = torch.zeros(self.num_classes, self.equivalent_inputs.shape[1], dtype=torch.float64, device="cpu")
        present = self.counts.nonzero().flatten()
        targets[present, self.spread.shape[1] + torch.arange(len(present), device="cpu")] = (
            self.counts[present].double().sqrt()
        )
        return targets / self.output_scale

    @cached_property
    def product(self) -> Tensor:
        """W_{L:1}, shape (K, d₀); infinite or NaN where it is beyond the range of float64."""
        product = self.weights[-1]
        for weight in reversed(self.weights[:-1]):
            product = product @ weight
        return product

    @cached_property
    def least_norm_fit(self) -> Tensor:
        """Y X⁺ / α, shape (K, d₀); NaN where X is beyond the range of float64."""
        inputs, place = unit_scaled(self.equivalent_inputs)
        if not bool(torch.isfinite(inputs).all()):
            return torch.full((self.num_classes, self.widths[0]), math.nan, dtype=torch.float64, device="cpu")
        # In directions without data, second moments hold nothing but rounding: nothing is to be fitted there.
        accuracy = max(self.spread_accuracy, max(inputs.shape) * torch.finfo(torch.float64).eps)
        return shifted(self.equivalent_targets @ torch.linalg.pinv(inputs, rtol=accuracy), -place)

    @cached_property
    def normalised(self) -> "LinearProblem":
        """The same network with the features of each layer divided by a power of two: largest entry in [1/2, 1).

        D_l, S_l and all ratios are those of the network itself, and no finite weight over- or underflows on the way.
        """
        reached = torch.cat([self.spread, self.class_means], 1)
        reached, place = unit_scaled(reached)
        weights, biases, first = [], [], place
        for weight, bias in zip(self.weights, self.biases, strict=True):
            top = max(place + unit_scaled(weight).exponent, unit_scaled(bias).exponent if bool(bias.any()) else -10_000)
            image = shifted(weight, place - top) @ reached
            image[:, self.spread.shape[1] :] += shifted(bias, -top)[:, None]
            reached, more = unit_scaled(image)
            weights.append(shifted(weight, place - top - more))
            biases.append(shifted(bias, -top - more))
            place = top + more
        return replace(
            self,
            weights=tuple(weights),
            biases=tuple(biases),
            spread=shifted(self.spread, -first),
            class_means=shifted(self.class_means, -first),
        )

    @cached_property
    def spreads(self) -> tuple[Tensor, ...]:
        """W_{l:1}R for l = 0 … L−1."""
        spreads = [self.spread]
        for weight in self.weights[:-1]:
            spreads.append(weight @ spreads[-1])
        return tuple(spreads)

    @cached_property
    def means(self) -> tuple[Tensor, ...]:
        """Class means of every feature layer, biases included, l = 0 … L−1."""
        means = [self.class_means]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            means.append(weight @ means[-1] + bias[:, None])
        return tuple(means)

    @cached_property
    def spectra(self) -> tuple[Spectrum, ...]:
        """Singular values and vectors of W_1, …, W_{L−1}."""
        return tuple(Spectrum(weight) for weight in self.weights[:-1])

    @cached_property
    def reachable(self) -> "LinearProblem":
        """The network restricted to what the layers before can reach: W̃_l = Q_lᵀ W_l Q_{l−1}; itself if none widens.

        Q_l is an orthonormal basis of the range of W_l Q_{l−1} where layer l has more features than that, else the
        identity. Differences of features are only turned, so D_l stays; biases are left out.
        """
        reachable, basis = [], None
        for weight in self.weights[:-1]:
            reached = weight if basis is None else weight @ basis
            if reached.shape[0] > reached.shape[1]:
                basis, reached = torch.linalg.qr(reached)
            else:
                basis = None
            reachable.append(reached)
        last = self.weights[-1]
        weights = (*reachable, last if basis is None else last @ basis)
        if all(one is other for one, other in zip(weights, self.weights, strict=True)):
            return self
        return replace(
            self, weights=weights, biases=tuple(torch.zeros(len(one), device="cpu").double() for one in weights)
        )

    @cached_property
    def resolution(self) -> Tensor:
        """Part of the within-class spread of layer l that rounding alone may make up, shape (L,).

        Rounding a weight to relative accuracy u moves ‖W_{l:1}R‖ by up to about l u ‖W_l‖ ⋯ ‖W_1‖ ‖R‖.
        """
        unit, grown, parts = torch.finfo(self.dtype).eps, 1.0, [self.spread_accuracy]
        spreads = self.normalised.spreads
        for layer, (spectrum, weight) in enumerate(
            zip(self.spectra, self.normalised.weights[:-1], strict=True), start=1
        ):
            scale = unit_scaled(weight).exponent - spectrum.exponent
            top = float(shifted(spectrum.values[:1], scale))
            before, size = float(spreads[layer - 1].norm()), float(spreads[layer].norm())
            grown *= top * before / size if size > 0 else math.inf
            parts.append((layer * unit + self.spread_accuracy) * grown)
        return torch.tensor(parts, dtype=torch.float64, device="cpu")


def _chain(
    weights: Sequence[Tensor], biases: Sequence[Tensor] | None, num_features: int, output_scale: float
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], torch.dtype]:
    """Checked weights and biases as doubles, and the coarsest dtype that the weights came in."""
    if not weights:
        raise ValueError("`model` must hold at least one weight matrix, got none")
    check_weights(weights, num_features)
    offsets = [torch.zeros(len(weight), device="cpu") for weight in weights] if biases is None else list(biases)
    check_biases(offsets, weights)
    if not (math.isfinite(output_scale) and output_scale > 0):
        raise ValueError(f"`output_scale` must be a positive number, got {output_scale!r}")
    dtype = min((weight.dtype for weight in weights), key=lambda kind: -torch.finfo(kind).eps)
    doubles = tuple(weight.cpu().double() for weight in weights)
    return doubles, tuple(bias.detach().cpu().double() for bias in offsets), dtype


def _class_means(columns: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Means of the classes present, about a sample of each class, so that large offsets do not cost digits."""
    present = counts.nonzero().flatten()
    means = columns.new_zeros(len(columns), len(present))
    for place, index in enumerate(present):
        own = columns[:, labels == index]
        means[:, place] = own[:, 0] + (own - own[:, :1]).mean(1)
    return means


def _reduced(residuals: Tensor) -> Tensor:
    """A matrix of at most d₀ columns with the same RRᵀ, to the accuracy of R itself."""
    if residuals.shape[1] <= residuals.shape[0] or not bool(torch.isfinite(residuals).all()):
        return residuals
    return torch.linalg.qr(residuals.T, mode="r").R.T
