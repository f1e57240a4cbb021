"""What deep linear networks are not built from."""

from collections.abc import Callable

import pytest
import torch

from neurocollapse.models import DeepLinear, linear_weights


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DeepLinear([4.0, 3.0]), r"`widths\[0\]` must be an integer of at least 1, got 4.0"),
        (lambda: DeepLinear([4, 0], "identity"), r"`widths\[1\]` must be an integer of at least 1, got 0"),
        (lambda: linear_weights([4, 3.5], "balanced"), r"`widths\[1\]` must be an integer of at least 1, got 3.5"),
        (lambda: DeepLinear.from_weights([torch.eye(3), torch.eye(3).long()]), "weight 2 must hold floats, got tor"),
        (lambda: DeepLinear.from_weights([torch.eye(3) * 1j]), r"weight 1 must hold floats, got torch\.complex64"),
    ],
)
def test_widths_and_weights_of_another_kind_are_refused_in_one_line(build: Callable[[], object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
