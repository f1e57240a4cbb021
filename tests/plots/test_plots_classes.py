"""What the spread of classes says about classes that cannot spread."""

import numpy as np
import xarray as xr

from neurocollapse import plots


def spread(counts: list[int], scatter: list[float]) -> xr.Dataset:
    """Two layers of as many classes as there are counts."""
    return xr.Dataset(
        {
            "class_scatter": (("layer", "class"), [scatter, scatter]),
            "class_count": (("layer", "class"), [counts, counts]),
            "between_trace": ("layer", [1.0, 1.0]),
        }
    )


def words(dataset: xr.Dataset) -> list[str]:
    return [text.get_text() for text in plots.class_spread(dataset, ax=plots.offscreen_axes()).texts]


def test_a_class_of_one_sample_has_not_collapsed() -> None:
    assert words(spread([20, 20, 1], [2.0, 1.0, 0.0])) == []
    assert words(spread([20, 20, 2], [2.0, 1.0, 0.0])) == ["a class collapsed"]
    assert words(spread([20, 20, 1], [2.0, 0.0, 0.0])) == ["a class collapsed"]


def test_classes_of_unknown_size_may_have_collapsed() -> None:
    assert words(spread([20, 1], [2.0, 0.0]).drop_vars("class_count")) == ["a class collapsed"]
    many = spread([2] * 30, list(np.linspace(0.0, 1.0, 30)))
    assert words(many) == ["a class collapsed"]
