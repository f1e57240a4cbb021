"""How much each sample moves log D: what D would be without it, by the delete-one jackknife."""

from typing import NamedTuple

import torch
from torch import Tensor

from neurocollapse.metrics.layer import Layer, Rows
from neurocollapse.metrics.unbiased import between_trace_unbiased, within_trace_unbiased
from neurocollapse.metrics.weighting import between_weights, within_weights


class Influences(NamedTuple):
    """How much each of some samples moves the logarithms of both traces of a layer.

    Attributes
    ----------
    within, between : Tensor of shape (rows,), float64
        Influence on the logarithm of the unbiased trace of Σ_W, and of Σ_B; the sum over all samples of their squares
        estimates the variance of that logarithm.
    share : Tensor of shape (rows,), float64
        (n_k − 2)/(n_k − 1) of the sample's class: how much of its influence the correction of D takes.
    """

    within: Tensor
    between: Tensor
    share: Tensor

    @property
    def compression(self) -> Tensor:
        """Influence on log D."""
        return self.within - self.between

    def sums(self) -> Tensor:
        """What is added up beside the products of influences on log D, shape (3,).

        The fourth powers of the influences on log D; with the weight `share`, the products of those on both traces and
        the squares of those on the trace of Σ_B.
        """
        parts = self.compression**4, self.share * self.within * self.between, self.share * self.between.square()
        return torch.stack(parts).sum(dim=1)


def influences(layer: Layer, rows: Rows) -> Influences:
    r"""Influence of each sample on the unbiased traces A of :math:`\Sigma_W` and B of :math:`\Sigma_B`.

    The influence is the difference that leaving out the sample makes, by the trace, times
    :math:`\sqrt{(n_k - 1)/n_k}`: the delete-one jackknife within classes. With :math:`e_i = z_i - m_k`, the weights
    :math:`w_k` and :math:`p_k` of the classes in both traces and :math:`v_k` the mean of :math:`\|e_i\|^2`,

    .. math:: \psi^A_i = \sqrt{\tfrac{n_k}{n_k - 1}} \frac{w_k}{A (n_k - 2)} \bigl( \|e_i\|^2 - v_k \bigr), \quad
        \psi^B_i = \frac{2 p_k}{B \sqrt{n_k (n_k - 1)}} \Bigl( \langle m_k - m_G, e_i \rangle
        - (1 - p_k) \frac{\|e_i\|^2 - v_k}{n_k - 2} \Bigr)

    The last term takes out the sample's own part in :math:`m_k`, which makes intervals too short where a sample's
    features are all large together.

    Parameters
    ----------
    layer : Layer
        With the moments of all samples.
    rows : Rows
        Some of those samples.

    Returns
    -------
    Influences
        NaN where the unbiased D is undefined or 0, and where a class has fewer than three samples.

    References
    ----------
    Tukey, Bias and confidence in not-quite large samples, Annals of Mathematical Statistics 29, 1958; Efron and Stein,
    The jackknife estimate of variance, Annals of Statistics 9, 1981: on average it is too large rather than too small.
    """
    placed = layer.placed(_factors, rows.features)
    labels = rows.labels
    centred = rows.centred(layer)
    square = centred.square().sum(dim=1, dtype=torch.float64) - placed.spread[labels]
    along = (centred * placed.means.index_select(0, labels)).sum(dim=1, dtype=torch.float64)
    within = placed.within[labels] * square
    return Influences(within, placed.between[labels] * (along - placed.own[labels] * square), placed.share[labels])


class _Factors(NamedTuple):
    """What the formulas take of each class: centred mean, v_k, factors of both influences, of its own part, share."""

    means: Tensor
    spread: Tensor
    within: Tensor
    between: Tensor
    own: Tensor
    share: Tensor


def _factors(layer: Layer, like: Tensor) -> _Factors:
    """The factors of all classes, where the rows are."""
    moments = layer.moments
    present, count = moments.present, moments.count[moments.present].double()
    weights = between_weights(moments, layer.weighting)
    means = moments.mean[present]
    less = torch.where(count > 2, count - 2, torch.nan)  # without one of two samples a class shows no spread
    within = within_trace_unbiased(moments, weighting=layer.weighting) or torch.nan
    between = between_trace_unbiased(moments, weighting=layer.weighting)
    parts = _Factors(
        means - weights @ means,
        moments.scatter[present] / count,
        (count / (count - 1)).sqrt() * within_weights(moments, layer.weighting) / less / within,
        2 * weights / (count * (count - 1)).sqrt() / (between if between > 0 else torch.nan),
        (1 - weights) / less,
        less / (count - 1),
    )
    full = [part.new_zeros(moments.num_classes, *part.shape[1:]).index_copy_(0, present, part) for part in parts]
    return _Factors(full[0].to(like.device, like.dtype), *(part.to(like.device) for part in full[1:]))
