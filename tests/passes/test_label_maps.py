"""Labels per position in the forms that training code has them, and mistakes with them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neurocollapse as nc
from neurocollapse.data import DataError
from neurocollapse.passes.loaders import logits_of

CLASSES = 3


class Segmenter(nn.Module):
    """Features of every pixel, and scores of their classes, channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Conv2d(2, 5, 3, padding=1), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.features(x).movedim(1, -1)).movedim(-1, 1)}


@pytest.fixture
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter().double()


def images(size: int = 6) -> tuple[Tensor, Tensor]:
    """Images, and maps of their pixels' classes of which some do not count."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(4, 2, size, size, generator=generator, dtype=torch.float64)
    return pixels, torch.randint(-1, CLASSES, (4, size, size), generator=generator)


@pytest.mark.parametrize("size", [6, CLASSES])  # maps as wide as there are classes could be read in two ways
def test_agreement_of_pixels_with_their_nearest_mean_is_that_by_hand(segmenter: Segmenter, size: int) -> None:
    pixels, labels = images(size)
    options: dict[str, Any] = {"layers": "head@in", "quantities": "nc4, ncm_error", "ignore_index": -1}
    dataset = nc.analyze(segmenter, [(pixels, labels)], pool="positions", num_classes=CLASSES, **options)
    with torch.no_grad():
        rows = segmenter.features(pixels).movedim(1, -1)[labels >= 0]
        chosen = segmenter.head(rows).argmax(1).numpy()
    own, features = labels[labels >= 0].numpy(), rows.numpy()
    means = np.stack([features[own == label].mean(axis=0) for label in range(CLASSES)])
    nearest = ((features[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert dataset["nc4"].item() == pytest.approx((nearest == chosen).mean(), abs=1e-12)
    assert dataset["ncm_error"].item() == pytest.approx((nearest != own).mean(), abs=1e-12)


def test_outputs_of_a_sequence_stand_last_or_as_those_of_a_map() -> None:
    last = torch.arange(24.0).reshape(2, 3, 4)
    counts = torch.tensor([[True, False, True], [False, False, True]])
    expected = last[counts]
    for output in (last, last.movedim(-1, 1), (last, "more"), {"logits": last}):
        found = logits_of(output, 2, count=3, counts=counts)
        assert found is not None
        assert torch.equal(found, expected)
    assert logits_of(last[:, :2], 2, count=3, counts=counts) is None
    assert logits_of(torch.zeros(2), 2, count=3, counts=counts) is None


def test_a_map_may_have_an_axis_for_its_only_channel(segmenter: Segmenter) -> None:
    pixels, labels = images()
    options: dict[str, Any] = {"layers": "features", "ignore_index": -1, "num_classes": CLASSES}
    expected = nc.collect(segmenter, [(pixels, labels)], pool="positions", **options)
    found = nc.collect(segmenter, [(pixels, labels[:, None])], pool="positions", **options)
    assert torch.equal(found["features"].mean, expected["features"].mean)


class Embeds(nn.Module):
    """Embeds tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.embed(input_ids)


@pytest.mark.parametrize("kind", ["dict", "pair"])
@pytest.mark.parametrize("labels", ["sequences", "positions"])
def test_padding_does_not_count_where_the_model_takes_no_mask(labels: str, kind: str) -> None:
    model, ids = Embeds(), torch.tensor([[3, 4, 9, 5], [4, 7, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    given = torch.tensor([0, 1]) if labels == "sequences" else ids % 2
    batch: Any = {"input_ids": ids, "attention_mask": mask, "labels": given}
    if kind == "pair":
        batch = ({"input_ids": ids, "attention_mask": mask}, given)
    found = nc.collect(model, [batch], num_classes=2)["embed"]
    rows = model.embed(ids)
    if labels == "sequences":
        torch.testing.assert_close(found.mean.float(), torch.stack([rows[0].mean(0), rows[1, :2].mean(0)]).detach())
    else:
        assert found.count.tolist() == [2, 4]


def test_the_mask_of_a_caption_is_none_of_the_image() -> None:
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    batch = {"x": torch.zeros(2, 2, 6, 6), "input_ids": mask, "attention_mask": mask, "labels": torch.tensor([0, 1])}
    model = Segmenter()
    assert list(nc.collect(model, [batch], layers="features")) == ["features"]


def test_what_comes_next_can_leave_out_a_token_as_well() -> None:
    batch = {
        "input_ids": torch.tensor([[3, 4, 9, 5], [4, 9, 9, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    }
    options: dict[str, Any] = {"label_fn": nc.labels.next_token(), "num_classes": 10}
    everything = nc.collect(Embeds(), [batch], **options)["embed"].count
    assert everything.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 3]
    without = nc.collect(Embeds(), [batch], ignore_index=9, **options)["embed"].count
    assert without.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        (
            torch.zeros(2, 4, dtype=torch.int64),
            {"label_fn": nc.labels.next_token()},
            r"'input_ids' is looked for in batches with named parts, got int64 \(2, 4\); make it a dict",
        ),
        (
            (torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2)),
            {"label_fn": nc.labels.field("tags")},
            r"'tags' is looked for in batches with named parts, got tuple of 2",
        ),
        (
            {"input_ids": torch.zeros(2, 4, dtype=torch.int64)},
            {"label_fn": nc.labels.next_token},
            r"`label_fn` gives a function where labels are wanted; call it first: nc.labels.next_token\(\)",
        ),
        (
            {"input_ids": torch.zeros(2, 4, dtype=torch.int64), "labels": torch.full((2, 4), 3)},
            {},
            r"not one-hot .* or pool=\"tokens\" where each position has a label of its own",
        ),
    ],
)
def test_mistakes_with_labels_of_positions_are_one_clear_line(batch: Any, options: Any, message: str) -> None:
    with pytest.raises((DataError, nc.LabelError), match=message) as caught:
        nc.collect(Embeds(), [batch], **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300
