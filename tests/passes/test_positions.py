"""Labels of every token or pixel: each real position counts once under its own class, as a naive count by hand."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neurocollapse as nc
from neurocollapse.data import DataError
from neurocollapse.data.labels import PositionLabels, label_map
from neurocollapse.hooks import CaptureError, LayoutError, MaskError, Positions
from neurocollapse.passes import FeatureSink, run_pass
from neurocollapse.passes.positions import LabelMap
from neurocollapse.statistics import ClassBatch

VOCABULARY, CLASSES, LENGTH = 12, 5, 8
EXACT = 1e-12


class Tagger(nn.Module):
    """Embedding, a layer over every token, and logits of every token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(VOCABULARY, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.head(torch.tanh(self.mix(self.embed(input_ids))))


def tagger() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tagger().double().eval()


def batches(number: int = 3, seed: int = 1) -> list[dict[str, Tensor]]:
    """Tokens with a tag each, of which every fifth does not count, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(number):
        ids = torch.randint(VOCABULARY, (4, LENGTH), generator=generator)
        lengths = torch.randint(3, LENGTH + 1, (4, 1), generator=generator)
        tags = torch.where(torch.rand(4, LENGTH, generator=generator) < 0.2, -100, ids % CLASSES)
        found.append({"input_ids": ids, "attention_mask": (torch.arange(LENGTH) < lengths).long(), "tags": tags})
    return found


def by_hand(model: Any, loader: list[dict[str, Tensor]], labels: list[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Features behind `mix` and labels of the positions that count, one after the other."""
    rows, found = [], []
    with torch.no_grad():
        for batch, own in zip(loader, labels, strict=True):
            hidden = model.mix(model.embed(batch["input_ids"]))
            for sample in range(len(own)):
                for place in range(LENGTH):
                    if batch["attention_mask"][sample, place] and own[sample, place] != -100:
                        rows.append(hidden[sample, place].numpy())
                        found.append(int(own[sample, place]))
    return np.stack(rows), np.array(found)


def assert_equal(moments: nc.ClassMoments, features: np.ndarray, labels: np.ndarray) -> None:
    """Counts, means and scatter are the naive ones."""
    for index in range(moments.num_classes):
        own = features[labels == index]
        assert int(moments.count[index]) == len(own)
        if len(own):
            np.testing.assert_allclose(moments.mean[index], own.mean(axis=0), rtol=EXACT, atol=EXACT)
            scatter = ((own - own.mean(axis=0)) ** 2).sum()
            assert float(moments.scatter[index]) == pytest.approx(scatter, rel=1e-10, abs=EXACT)


@pytest.mark.parametrize("pool", ["auto", "tokens"])
def test_tags_of_tokens_count_as_by_hand(pool: str) -> None:
    model, loader = tagger(), batches()
    moments = nc.collect(model, loader, label_fn=nc.labels.field("tags"), pool=pool, num_classes=CLASSES)
    assert_equal(moments["mix"], *by_hand(model, loader, [batch["tags"] for batch in loader]))
    assert list(moments) == ["embed", "mix", "head"]
    assert moments.num_samples == 12


def test_the_class_of_a_position_is_the_token_that_comes_next() -> None:
    model, loader = tagger(), batches()
    following = []
    for batch in loader:
        own = torch.full((4, LENGTH), -100)
        for sample in range(4):
            for place in range(int(batch["attention_mask"][sample].sum()) - 1):
                own[sample, place] = batch["input_ids"][sample, place + 1]
        following.append(own)
    loader = [{key: value for key, value in batch.items() if key != "tags"} for batch in loader]
    moments = nc.collect(model, loader, label_fn=nc.labels.next_token(), num_classes=VOCABULARY)
    assert_equal(moments["mix"], *by_hand(model, loader, following))


def test_labels_of_the_masks_shape_and_rows_that_are_named_need_no_label_fn() -> None:
    model, loader = tagger(), batches()
    expected = nc.collect(model, loader, label_fn=nc.labels.field("tags"), num_classes=CLASSES)["mix"]
    named = [{"labels" if key == "tags" else key: value for key, value in batch.items()} for batch in loader]
    assert torch.equal(nc.collect(model, named, num_classes=CLASSES)["mix"].mean, expected.mean)
    whole = [(batch["input_ids"], batch["tags"]) for batch in loader]
    found = nc.collect(model, whole, pool="tokens", num_classes=CLASSES)["mix"]
    assert int(found.count.sum()) == sum(int((batch["tags"] != -100).sum()) for batch in loader)


@pytest.mark.parametrize("kind", ["decoder only", "with a decoder of its own", "needs them"])
def test_a_model_is_not_given_the_labels_that_are_measured(kind: str) -> None:
    class Sees(Tagger):
        """Keeps what it is given as labels."""

        seen: Any = None

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Any = None) -> Tensor:
            self.seen = labels
            return super().forward(input_ids, attention_mask)

    class Needs(Sees):
        def forward(self, input_ids: Tensor, labels: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            return super().forward(input_ids, attention_mask, labels)

    model = (Needs if kind == "needs them" else Sees)().double()
    if kind == "with a decoder of its own":
        model.config = SimpleNamespace(is_encoder_decoder=True)
    batch = {"labels" if name == "tags" else name: part for name, part in batches(1)[0].items()}
    nc.collect(model, [batch], layers=["mix"], label_fn=nc.labels.field("labels"), num_classes=CLASSES)
    if kind == "decoder only":
        assert model.seen is None
    else:
        assert torch.equal(model.seen, batch["labels"])


def test_other_positions_can_be_ignored() -> None:
    model, loader = tagger(), batches()
    other = [batch | {"tags": batch["tags"].clamp(min=0)} for batch in loader]
    moments = nc.collect(model, other, label_fn=nc.labels.field("tags"), ignore_index=0, num_classes=CLASSES)
    assert int(moments["mix"].count[0]) == 0
    with pytest.raises(TypeError, match="`ignore_index` must be an integer"):
        nc.collect(model, other, ignore_index="pad")


@pytest.mark.parametrize("source", ["name", "function", "argument"])
def test_sample_labels_keep_each_tokens_row_where_it_is_real(source: str) -> None:
    model, loader = tagger(), batches()
    labels = [torch.tensor([0, 1, 2, 1])] * 3
    spread = [own.unsqueeze(1).expand(4, LENGTH) for own in labels]
    options: dict[str, Any] = {}
    data: list[Any] = [
        {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": own}
        for batch, own in zip(loader, labels, strict=True)
    ]
    if source == "name":
        data = [{"input_ids": b["input_ids"], "real": b["attention_mask"], "labels": b["labels"]} for b in data]
        options["mask"] = "real"
    elif source == "function":
        data = [{"input_ids": b["input_ids"], "pads": 1 - b["attention_mask"], "labels": b["labels"]} for b in data]
        options["mask_fn"] = lambda batch: 1 - batch["pads"]
    moments = nc.collect(model, data, pool="tokens", **options)
    assert_equal(moments["mix"], *by_hand(model, loader, spread))
    assert moments.num_samples == 12
    counted = nc.collect(model, data, pool="tokens", mask=False)
    assert int(counted["mix"].count.sum()) == 12 * LENGTH


def test_a_second_pass_and_probes_see_the_same_rows() -> None:
    model, loader = tagger(), batches(6)
    dataset = nc.analyze(
        model,
        loader,
        label_fn=nc.labels.field("tags"),
        num_classes=CLASSES,
        quantities="compression, nc4, ncm_error",
        probes=True,
        layers=["mix", "head@in"],
    )
    features, labels = by_hand(model, loader, [batch["tags"] for batch in loader])
    means = np.stack([features[labels == k].mean(axis=0) for k in range(CLASSES)])
    nearest = ((features[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert dataset["ncm_error"].sel(layer="mix").item() == pytest.approx((nearest != labels).mean(), abs=EXACT)
    activated = np.tanh(features)
    logits = activated @ model.head.weight.detach().numpy().T + model.head.bias.detach().numpy()
    own = np.stack([activated[labels == k].mean(axis=0) for k in range(CLASSES)])
    agree = ((activated[:, None] - own) ** 2).sum(axis=2).argmin(axis=1) == logits.argmax(axis=1)
    assert dataset["nc4"].sel(layer="head@in").item() == pytest.approx(agree.mean(), abs=EXACT)
    assert dataset.attrs["probe_train_samples"] + dataset.attrs["probe_test_samples"] == len(labels)


def test_an_interrupted_run_continues_to_the_last_bit(tmp_path: Path) -> None:
    model, loader = tagger(), batches(4)
    options: dict[str, Any] = {"label_fn": nc.labels.field("tags"), "num_classes": CLASSES, "probes": True}
    unbroken = nc.analyze(model, loader, **options)

    class Broken:
        def __iter__(self) -> Any:
            yield from loader[:2]
            raise OSError("stop here")

    with pytest.raises(OSError, match="stop here"):
        nc.analyze(model, Broken(), resume=tmp_path / "state", **options)
    found = nc.analyze(model, loader, resume=tmp_path / "state", **options)
    assert found.drop_attrs().equals(unbroken.drop_attrs())


def test_kept_features_of_masked_rows_name_their_samples() -> None:
    model, loader = tagger(), batches(2)
    data = [
        {"input_ids": b["input_ids"], "attention_mask": b["attention_mask"], "labels": torch.tensor([0, 1, 0, 1])}
        for b in loader
    ]
    kept = run_pass(model, data, {"features": FeatureSink(6)}, layers="mix", pool="tokens")["features"]
    lengths = torch.cat([b["attention_mask"].sum(1) for b in loader])[:6]
    assert torch.equal(kept.samples["mix"], torch.arange(6).repeat_interleave(lengths))
    assert len(kept.features["mix"]) == int(lengths.sum())
    assert kept.labels.tolist() == [0, 1, 0, 1, 0, 1]


class Segmenter(nn.Module):
    """Maps at full, half and quarter resolution, and one vector an image."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 4, 2, stride=2)
        self.odd, self.pooled = nn.Conv2d(4, 2, 2), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.odd(self.coarse(self.fine(x)))).flatten(1)


def segmenter() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Segmenter().double().eval()


def test_maps_of_labels_are_brought_to_the_layers_resolution_where_that_is_exact() -> None:
    model = segmenter()
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(3, 1, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, 3, (3, 8, 8), generator=generator)
    labels[labels < 0] = -100
    with pytest.warns(nc.CaptureWarning, match=r"odd: labels are given for positions \(8, 8\), but this layer has"):
        moments = nc.collect(model, [(images, labels)], pool="positions", num_classes=3)
    assert list(moments) == ["fine", "coarse"]
    with torch.no_grad():
        fine = model.fine(images)
        coarse = model.coarse(fine)
    # nearest neighbour as torch.nn.functional.interpolate has it
    nearest = nn.functional.interpolate(labels[:, None].double(), size=(4, 4), mode="nearest")[:, 0].long()
    for name, values, own in (("fine", fine, labels), ("coarse", coarse, nearest)):
        rows = values.movedim(1, -1)
        assert_equal(moments[name], rows[own != -100].numpy(), own[own != -100].numpy())


def test_a_finer_layer_takes_each_label_for_all_of_its_positions() -> None:
    labels = torch.tensor([[[0, 1], [-100, 2]]])
    found = LabelMap(labels, labels != -100)
    found.base = ClassBatch(labels[found.counts], 3)
    batch, chosen = found.rows(Positions((4, 4)))
    assert batch.labels.tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 2, 2]
    assert chosen.tolist() == [place for place in range(16) if place not in (8, 9, 12, 13)]
    assert torch.equal(found.base.labels[batch.samples], batch.labels)


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (
            {"tags": torch.full((4, LENGTH), -3)},
            {},
            ValueError,
            r"non-negative or ignore_index=-100, got -3 at \(0",
        ),
        ({"tags": torch.full((4, LENGTH), 9)}, {"num_classes": 5}, ValueError, r"in \[0, 5\) or ignore_index.*got 9"),
        ({"tags": torch.zeros(4, 3).long()}, {}, ValueError, r"have shape \(4, 3\), but the mask has \(4, 8\)"),
        ({"tags": torch.zeros(4, LENGTH)}, {}, DataError, r"labels per position must be integers, got torch.float32"),
        ({"tags": torch.zeros(4).long()}, {}, DataError, r"need shape \(samples, positions, …\), got \(4,\)"),
        ({}, {"pool": "mean"}, CaptureError, r"`pool` = 'mean' leaves one row per sample; pass pool=\"tokens\""),
        (
            {},
            {"label_fn": nc.labels.field("tag")},
            DataError,
            r"the batch has no 'tag'; it has input_ids, att",
        ),
        ({}, {"mask": "nothing"}, MaskError, r"`mask` names 'nothing', which the model is not given"),
        ({}, {"mask_fn": lambda batch: torch.zeros(4, LENGTH)}, MaskError, r"leaves nothing of sample 0"),
        ({}, {"mask": 3}, TypeError, r"`mask` must name a part of the batch, or be False, got int"),
        ({}, {"mask_fn": "real"}, TypeError, r"`mask_fn` must be a function from a batch to its mask; got str"),
        ({}, {"mask_fn": len, "mask": "real"}, TypeError, r"leave out `mask` beside it"),
    ],
)
def test_wrong_masks_and_labels_are_one_clear_line(
    change: dict[str, Tensor], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = tagger()
    loader = [batch | change for batch in batches(1)]
    with pytest.raises(error, match=message) as caught:
        nc.collect(model, loader, **{"label_fn": nc.labels.field("tags"), **options})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_layer_with_one_row_a_sample_is_refused_where_it_was_named() -> None:
    model = segmenter()
    loader = [(torch.zeros(2, 1, 8, 8, dtype=torch.float64), torch.zeros(2, 8, 8, dtype=torch.int64))]
    with pytest.raises(LayoutError, match=r"layer 'pooled': labels are given for positions"):
        nc.collect(model, loader, layers=["pooled"])


def test_labels_that_are_the_tokens_themselves_are_refused() -> None:
    loader = [
        {"input_ids": b["input_ids"], "attention_mask": b["attention_mask"], "labels": b["input_ids"]}
        for b in batches(1)
    ]
    with pytest.raises(nc.LabelError, match=r"label_fn=nc.labels.next_token\(\)"):
        nc.collect(tagger(), loader)
    found = nc.collect(tagger(), loader, label_fn=nc.labels.next_token())
    assert found["mix"].num_samples == int(loader[0]["attention_mask"].sum()) - 4


def test_the_tokens_must_be_a_matrix_and_the_mask_of_their_shape() -> None:
    with pytest.raises(DataError, match=r"'input_ids' must have shape \(samples, positions\), got \(3,\)"):
        nc.labels.next_token()({"input_ids": torch.arange(3)})
    with pytest.raises(DataError, match=r"'attention_mask' has shape \(1, 2\), but 'input_ids' \(1, 3\)"):
        nc.labels.next_token()({"input_ids": torch.ones(1, 3).long(), "attention_mask": torch.ones(1, 2)})
    left = {"input_ids": torch.tensor([[0, 0, 5, 6]]), "attention_mask": torch.tensor([[0, 0, 1, 1]])}
    assert nc.labels.next_token()(left).values.tolist() == [[-100, -100, 6, -100]]
    assert nc.labels.next_token(mask=None)(left).values.tolist() == [[0, 5, 6, -100]]
    assert len(PositionLabels([[1]])) == 1
    with pytest.raises(DataError, match="must be integers"):
        label_map([[1], [2, 3]])


def test_one_hot_rows_are_still_one_label_a_sample() -> None:
    rows = torch.eye(3, dtype=torch.int64)[[0, 1, 2, 1]]
    loader = [(batches(1)[0]["input_ids"], rows)]
    moments = nc.collect(tagger(), loader)
    assert moments["mix"].count.tolist() == [1, 2, 1]
    assert math.isfinite(float(moments["mix"].mean.sum()))
