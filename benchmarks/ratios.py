"""Ratios of paired measurements, and power laws through them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Ratio:
    """Median and quartiles of paired ratios."""

    value: float
    lower_quartile: float
    upper_quartile: float
    num_pairs: int

    @classmethod
    def of(cls, numerators: Sequence[float], denominators: Sequence[float]) -> "Ratio":
        """Ratio of each pair, summarised."""
        ratios = [above / below for above, below in zip(numerators, denominators, strict=True)]
        lower, middle, upper = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        return cls(middle, lower, upper, len(ratios))

    def as_dict(self) -> dict[str, float]:
        """The fields, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.lower_quartile:.3f}, {self.upper_quartile:.3f}]"


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of the least-squares line through log(value) over log(size): 1 where the cost is proportional."""
    fit = statistics.linear_regression([math.log(size) for size in sizes], [math.log(value) for value in values])
    return fit.slope
