"""Self-duality of class means and classifier: NC3."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from neurocollapse.metrics.means import ClassMeans
from neurocollapse.metrics.pairs import chord
from neurocollapse.metrics.quantity import Quantity
from neurocollapse.statistics import ClassMoments, Reader

PRODUCT_ELEMENTS = 2**23
"""Elements of W_c Mᵀ that are formed at once (64 MiB)."""


def nc3(moments: ClassMoments, reader: Reader) -> float:
    r"""NC3, distance of the classifier from the class means, both centred and normalised.

    .. math:: \bigl\| W_c / \|W_c\|_F - M / \|M\|_F \bigr\|_F

    with the rows :math:`w_k - \bar w` of :math:`W_c` and :math:`\mu_k = m_k - m_G` of M, for the classes
    that are present.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.
    reader : Reader
        The linear layer that reads the features, with an output a class.

    Returns
    -------
    float
        In [0, 2]; 0 at collapse. NaN with fewer than two classes present, where all rows of either coincide, or where
        the reader has another number of outputs than there are classes.

    References
    ----------
    Papyan, Han, Donoho, PNAS 117(40), 2020.

    Examples
    --------
    >>> moments = ClassMoments.from_features([[1.0, 2.0], [-1.0, 2.0]], [0, 1])
    >>> round(nc3(moments, Reader(torch.tensor([[3.0, 0.0], [-3.0, 0.0]]))), 12)
    0.0
    """
    return Duality(ClassMeans(moments), reader).distance(centred=True)


def nc3_raw(moments: ClassMoments, reader: Reader) -> float:
    r"""NC3 with the weight as it is, :math:`\| W / \|W\|_F - M / \|M\|_F \|_F`; see `nc3`.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.
    reader : Reader
        Weight and bias of the linear layer that reads the features.
    """
    return Duality(ClassMeans(moments), reader).distance(centred=False)


def nc3_product(moments: ClassMoments, reader: Reader) -> float:
    r"""NC3 as Zhu et al. measure it: distance of the products of classifier and class means from those of a simplex.

    .. math:: \bigl\| W_c M^\top / \|W_c M^\top\|_F - (I - \tfrac1K 1 1^\top) / \sqrt{K - 1} \bigr\|_F

    In [0, 2], 0 at collapse; NaN where `nc3` is, and where the product vanishes.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.
    reader : Reader
        Weight and bias of the linear layer that reads the features.

    References
    ----------
    Zhu et al., A geometric analysis of neural collapse with unconstrained features, NeurIPS 2021.
    """
    return Duality(ClassMeans(moments), reader).product_distance()


def unc3(moments: ClassMoments, reader: Reader) -> float:
    r"""Uniform duality: standard deviation over the classes of :math:`\cos(w_k - \bar w, \mu_k)`.

    In [0, 1], 0 at collapse; NaN where `nc3` is, and where one of these vectors vanishes.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.
    reader : Reader
        Weight and bias of the linear layer that reads the features.

    References
    ----------
    Wu and Papyan, Linguistic collapse: neural collapse in (large) language models, NeurIPS 2024.
    """
    return Duality(ClassMeans(moments), reader).cosine_deviation()


class Duality:
    """Class means beside the rows of the classifier: ‖w_k − w̄‖² in `square` and ⟨w_k − w̄, μ_k⟩ in `along`."""

    def __init__(self, means: ClassMeans, reader: Reader) -> None:
        self.means, self.weight = means, reader.weight
        fits = reader.num_outputs == means.moments.num_classes and means.num_classes > 1
        self.square, self.raw_square, self.along = means.square.new_zeros(3, means.num_classes)
        for weight, centred, block in self._blocks() if fits else ():
            self.raw_square += weight.square().sum(dim=1)
            self.square += centred.square().sum(dim=1)
            self.along += (centred * block).sum(dim=1)
        self.defined = bool(self.square.any()) and bool(means.square.any())

    def distance(self, *, centred: bool) -> float:
        """Between weight and class means of norm one."""
        if not self.defined:
            return math.nan
        norm, other = (self.square if centred else self.raw_square).sum().sqrt(), self.means.square.sum().sqrt()
        square = 0.0
        for raw, weight, block in self._blocks():
            square += float(((weight if centred else raw) / norm - block / other).square().sum())
        return math.sqrt(square)

    def cosine_deviation(self) -> float:
        """Standard deviation of the cosines between rows and class means."""
        if not self.defined or not bool((self.square > 0).all() & (self.means.square > 0).all()):
            return math.nan
        return float((self.along / (self.square * self.means.square).sqrt()).std(correction=0))

    def product_distance(self) -> float:
        """Distance of W_c Mᵀ from a simplex: α (I − 11ᵀ/K) with α = tr(W_c Mᵀ)/(K − 1), and an orthogonal rest."""
        if not self.defined:
            return math.nan
        classes, trace = self.means.num_classes, float(self.along.sum())
        along = trace / math.sqrt(classes - 1)
        wide = self.means.num_features >= classes - 1
        # With fewer features there is no simplex, so that nothing cancels in a difference of squares.
        square = self._rest(trace) if wide else max(0.0, self._product_square() - along**2)
        return chord(along, math.sqrt(square))

    def _rest(self, trace: float) -> float:
        """‖W_c Mᵀ − α (I − 11ᵀ/K)‖², some rows at a time."""
        classes, square = self.means.num_classes, 0.0
        share = trace / (classes - 1)
        for start in range(0, classes, height := max(1, PRODUCT_ELEMENTS // classes)):
            products = self.along.new_full((min(height, classes - start), classes), share / classes)
            products.diagonal(start).sub_(share)
            for _, weight, block in self._blocks():
                products.addmm_(weight[start : start + height], block.T)
            square += float(products.square().sum())
        return square

    def _product_square(self) -> float:
        """‖W_c Mᵀ‖² from products of features, some classes at a time."""
        means, features = self.means, self.means.num_features
        first = self.weight[means.present[:1]].double()
        parts = means.present.split(max(1, PRODUCT_ELEMENTS // features))
        centre = torch.stack([(self.weight[part].double() - first).sum(dim=0) for part in parts]).sum(dim=0)
        centre /= means.num_classes
        start, products = 0, self.along.new_zeros(2, features, features)
        for part in parts:
            rows = slice(start, start := start + len(part))
            for product, block in zip(
                products, (self.weight[part].double() - first - centre, means.rows(rows, centred=True)), strict=True
            ):
                product.addmm_(block.T, block)
        return float((products[0] * products[1]).sum())

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Column blocks of W, W_c and M, of the classes that are present."""
        start = 0
        for block in self.means.blocks():
            weight = self.weight[self.means.present, start : (start := start + block.shape[1])].double()
            relative = weight - weight[:1]  # equal rows become exactly zero
            yield weight, relative - relative.mean(dim=0), block


def _of_duality(name: str, of: Callable[[Duality], float], **more: Any) -> Quantity:
    """One number of class means and classifier."""
    return Quantity(
        name=name,
        of=lambda layer: of(Duality(layer.means, layer.reader)),
        needs=("classifier",),
        at_collapse=0.0,
        better="lower",
        family="collapse",
        **more,
    )


_PAPYAN = "Papyan, Han, Donoho, PNAS 117(40), 2020"
QUANTITIES = (
    _of_duality(
        "nc3",
        lambda both: both.distance(centred=True),
        long_name="NC3, distance of classifier and class means",
        symbol=r"\left\| \frac{W_c}{\|W_c\|} - \frac{M}{\|M\|} \right\|_F",
        convention="both centred and of Frobenius norm one",
        reference=_PAPYAN,
        heading="NC3",
        bounds=(0.0, 2.0),
    ),
    _of_duality(
        "nc3_raw",
        lambda both: both.distance(centred=False),
        long_name="NC3, weight not centred",
        symbol=r"\left\| \frac{W}{\|W\|} - \frac{M}{\|M\|} \right\|_F",
        convention="class means centred, the weight as it is, both of Frobenius norm one",
        reference=_PAPYAN,
        heading="NC3, raw",
        bounds=(0.0, 2.0),
    ),
    _of_duality(
        "nc3_product",
        Duality.product_distance,
        long_name="NC3, distance of their products from a simplex",
        symbol=r"\left\| \frac{W_c M^\top}{\|W_c M^\top\|} - \frac{I - 1 1^\top / K}{\sqrt{K - 1}} \right\|_F",
        convention="both centred; Frobenius norm one",
        reference="Zhu et al., NeurIPS 2021",
        heading="NC3, product",
        bounds=(0.0, 2.0),
    ),
    _of_duality(
        "unc3",
        Duality.cosine_deviation,
        long_name="uniform duality",
        symbol=r"\mathrm{std}_k \cos(w_k - \bar w, \mu_k)",
        convention="standard deviation over the classes, 1/K; both centred",
        reference="Wu and Papyan, NeurIPS 2024",
        heading="UNC3",
        bounds=(0.0, 1.0),
    ),
)
