"""What measuring must survive, and what it must leave as it was: rows 12 and 14 to 18 of what goes wrong elsewhere."""

import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neurocollapse as nc


class Noisy(nn.Module):
    """Draws random numbers, keeps running statistics, and can be told to raise in its n-th call."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.second, self.head = nn.Linear(8, 150), nn.Linear(150, 3)
        self.error: BaseException | None = None
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(self.norm(self.first(x)))
        hidden = hidden + 1e-3 * torch.rand_like(hidden)
        self.calls += 1
        if self.error is not None and self.calls == 2:
            raise self.error
        return self.head(self.second(hidden))


@pytest.fixture
def model(hand: Any) -> nn.Module:
    """Modules in mixed modes, as after freezing a part."""
    model = hand.seeded(Noisy).train()
    model.norm.eval()
    model.second.eval()
    return model


@pytest.fixture
def batches(hand: Any) -> list[tuple[Tensor, Tensor]]:
    return hand.in_batches(*hand.clustered(32, 6), 8)


@pytest.mark.parametrize("mode", ["eval", "unchanged"])
@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("where", ["nowhere", "forward", "loader", "label_fn"])
@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt("stop")], ids=["error", "Ctrl-C"])
def test_everything_is_as_it_was_however_the_run_ends(
    hand: Any,
    model: Noisy,
    batches: list[tuple[Tensor, Tensor]],
    tmp_path: Path,
    error: BaseException,
    where: str,
    resume: bool,
    mode: str,
) -> None:
    model.error = error if where == "forward" else None

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for index, batch in enumerate(batches):
            if where == "loader" and index == 2:
                raise error
            torch.rand(3)  # an augmentation
            yield batch

    def label_fn(batch: tuple[Tensor, Tensor]) -> Tensor:
        if where == "label_fn" and model.calls == 2:
            raise error
        return batch[1]

    options: dict[str, Any] = {"label_fn": label_fn, "mode": mode}
    if resume:
        options["resume"] = tmp_path / "state"
    with hand.left_alone(model):
        if where == "nowhere":
            nc.collect(model, loader(), **options)
        else:
            with pytest.raises(type(error), match="stop"):
                nc.collect(model, loader(), **options)
    saved = resume and where != "forward"  # a batch that some layers have counted and others have not is not saved
    assert [path.name for path in tmp_path.iterdir()] == (["state"] if saved else [])


def test_a_model_whose_mode_cannot_be_set_keeps_the_modes_it_had(hand: Any) -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Linear(6, 3)

        def train(self, mode: bool = True) -> "Stubborn":
            super().train(mode)
            if mode:
                raise RuntimeError("never")
            return self

    stubborn = Stubborn().eval()
    with hand.left_alone(stubborn), pytest.raises(RuntimeError, match="never"):
        nc.collect(stubborn, [hand.clustered(8, 6)], mode="train")
    assert not stubborn.part.training


def test_the_users_own_hooks_stay(hand: Any, model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    own = model.first.register_forward_hook(lambda module, args, output: None)
    nc.collect(model, batches)
    assert hand.num_hooks(model) == 1
    own.remove()


def test_statistics_are_taken_outside_autocast(hand: Any) -> None:
    model = hand.seeded(lambda: nn.Sequential(nn.Linear(6, 160), nn.Linear(160, 3)))
    inputs, labels = hand.clustered(40, 6)
    batches = hand.in_batches(inputs, labels, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        moments = nc.collect(model, batches, covariance=True, include_input=True)
        dataset, tree = nc.measure(moments), nc.layer_tree(moments)
        pooled = nc.measure(moments, weighting="frequency")["within_trace"]
        calls = [((part,), {}) for part, _ in batches]
        saved = hand.saved(model, calls, dict(model.named_children()))
    assert dataset["feature_dtype"].values.tolist() == ["float32", "bfloat16", "bfloat16"]
    hand.assert_layer_equals(dataset, "input", inputs, labels)
    for name, outputs in saved.items():
        features = torch.cat([calls[0] for calls in outputs])
        assert features.dtype == torch.bfloat16
        hand.assert_layer_equals(dataset, name, features.double(), labels)
    for name, node in tree.children.items():  # products in bfloat16 would be off by some 1e-3
        trace = np.trace(node["within_class_covariance"].values)
        np.testing.assert_allclose(trace, pooled.sel(layer=name), rtol=1e-6)


def test_a_pooling_function_runs_outside_autocast(hand: Any) -> None:
    (inputs, labels), directions = hand.clustered(40, 6), hand.randn(6, 5)

    def projected(activation: Tensor) -> Tensor:
        return activation @ directions

    with torch.autocast("cpu", dtype=torch.bfloat16):
        dataset = nc.analyze(nn.Identity(), [(inputs, labels)], pool=projected)
    hand.assert_layer_equals(dataset, "(root)", inputs @ directions, labels)


@pytest.mark.parametrize(
    ("dtype", "spread", "warns"),
    [
        (torch.bfloat16, 1e-2, True),
        (torch.bfloat16, 1e-1, False),
        (torch.float16, 1e-3, True),
        (torch.float16, 1e-2, False),
        (torch.float32, 1e-6, True),
        (torch.float32, 1e-5, False),
    ],
)
def test_a_result_near_the_rounding_of_the_features_warns(
    hand: Any, dtype: torch.dtype, spread: float, warns: bool
) -> None:
    labels = torch.arange(600) % 3
    features = hand.randn(3, 20)[labels] + spread * hand.randn(600, 20, seed=1) / 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = nc.analyze(nn.Identity(), [(features.to(dtype), labels)])
    name = str(dtype).removeprefix("torch.")
    assert dataset["feature_dtype"].item() == name
    assert [warning.category for warning in caught] == [nc.PrecisionWarning] * warns
    assert (f"the rounding of {name} features may show" in dataset.attrs["warnings"]) == warns


def test_a_run_begun_in_inference_mode_goes_on_outside(hand: Any, tmp_path: Path) -> None:
    model = hand.seeded(lambda: nn.Sequential(nn.Linear(6, 160), nn.Linear(160, 3)))
    batches = hand.in_batches(*hand.clustered(40, 6), 8)
    unbroken = nc.collect(model, batches, covariance=True)
    with torch.inference_mode():
        begun = nc.collect(model, batches[:3], covariance=True, resume=tmp_path / "state")
    assert not any(
        value.is_inference() for moments in begun.values() for value in vars(moments).values() if value is not None
    )
    found = nc.collect(model, batches, covariance=True, resume=tmp_path / "state")
    for name, moments in unbroken.items():
        for field, value in vars(moments).items():
            assert torch.equal(getattr(found[name], field), value), (name, field)


def test_running_statistics_move_only_when_asked_to(hand: Any, batches: list[tuple[Tensor, Tensor]]) -> None:
    model = hand.seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))).train()
    mean = model[1].running_mean.clone()
    with hand.left_alone(model):
        in_eval = nc.analyze(model, batches)
    assert torch.equal(model[1].running_mean, mean)
    in_train = nc.analyze(model, batches, mode="train")
    assert not torch.equal(model[1].running_mean, mean)
    assert (in_eval.attrs["mode"], in_train.attrs["mode"]) == ("eval", "train")
    normalised = torch.cat([nn.functional.batch_norm(model[0](x), None, None, training=True) for x, _ in batches])
    hand.assert_layer_equals(in_train, "1", normalised.detach(), torch.cat([y for _, y in batches]))


@pytest.mark.parametrize("training", [False, True])
def test_unchanged_mode_takes_every_module_as_it_is(
    hand: Any, batches: list[tuple[Tensor, Tensor]], training: bool
) -> None:
    model = hand.seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))).train(training)
    mean = model[1].running_mean.clone()
    nc.analyze(model, batches, mode="unchanged")
    assert torch.equal(model[1].running_mean, mean) is not training


def test_labels_are_checked_in_every_batch(hand: Any, model: nn.Module) -> None:
    inputs, labels = hand.clustered(16, 6)
    bad = labels.clone()
    bad[3] = 7
    with (
        hand.left_alone(model),
        pytest.raises(nc.LabelError, match=r"\[0, 3\), got 7 at position 3; pass num_classes=8"),
    ):
        nc.collect(model, [(inputs, labels), (inputs, bad)], num_classes=3)


def test_classes_that_turn_up_late_find_room(hand: Any) -> None:
    inputs, labels = hand.clustered(24, 160)
    order = labels.argsort()
    batches = hand.in_batches(inputs[order], labels[order], 5)
    hand.assert_layer_equals(nc.analyze(nn.Identity(), batches), "(root)", inputs, labels)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("width", [6, 160], ids=["narrow", "wide"])
def test_bad_features_are_found_by_layer_batch_and_sample(hand: Any, bad: float, width: int) -> None:
    class Spoils(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = nn.Identity(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.after(torch.where(x == 99, bad, self.before(x)))

    inputs, labels = hand.clustered(20, width)
    inputs[13, 3] = 99
    model = Spoils()
    with (
        hand.left_alone(model),
        pytest.raises(nc.NonFiniteError, match=r"'after'.*sample 5 in batch 1 .*skip") as caught,
    ):
        nc.analyze(model, hand.in_batches(inputs, labels, 8))
    assert "\n" not in str(caught.value)


def test_a_bad_token_is_told_by_its_sample_where_samples_have_different_lengths() -> None:
    lengths, labels = torch.tensor([4, 1, 2]), torch.tensor([0, 1, 2])
    inputs = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    inputs[2, 1, 0] = torch.nan  # the seventh of seven tokens
    mask = torch.arange(4) < lengths.unsqueeze(1)
    with pytest.raises(nc.NonFiniteError, match="the features of sample 2 in batch 0"):
        nc.analyze(nn.LayerNorm(6), [(inputs, labels)], pool="tokens", mask_fn=lambda batch: mask)


def test_a_bad_token_is_told_by_its_sample_where_every_token_has_a_label() -> None:
    inputs = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    inputs[2, 1, 0] = torch.nan
    labels = torch.arange(12).reshape(3, 4) % 3
    labels[0, 1] = -100
    with pytest.raises(nc.NonFiniteError, match="the features of sample 2 in batch 0"):
        nc.analyze(nn.LayerNorm(6), [(inputs, labels)], pool="tokens")


@pytest.mark.parametrize("kernel", ["torch", "sorted"])
def test_a_bad_sample_is_told_by_its_place_in_the_loader_where_classes_are_chosen(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROCOLLAPSE_KERNEL", kernel)
    inputs = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    inputs[2, 3, 0] = torch.nan
    labels = torch.tensor([[0, 1, 2, 0], [2, 2, 2, 2], [2, 1, 2, 0]])  # one batch has none of the chosen classes
    place = "batch 2" if kernel == "sorted" else "sample 3 in batch 2"  # sorted rows do not tell samples apart
    with pytest.raises(nc.NonFiniteError, match=f"the features of {place}"):
        nc.analyze(nn.Identity(), list(zip(inputs, labels, strict=True)), classes=[0, 1])


@pytest.mark.parametrize("width", [6, 160], ids=["narrow", "wide"])
@pytest.mark.parametrize("rows", [[13], [0, 1, 2], [5, 6, 19]], ids=["one", "first of each class", "several"])
def test_skipped_samples_are_counted_in_the_result(hand: Any, rows: list[int], width: int) -> None:
    inputs, labels = hand.clustered(20, width)
    bad = inputs.clone()
    bad[rows, 0] = torch.nan
    good = torch.tensor([row for row in range(20) if row not in rows])
    dataset = nc.analyze(nn.Identity(), hand.in_batches(bad, labels, 8), non_finite="skip", num_classes=3)
    hand.assert_layer_equals(dataset, "(root)", inputs[good], labels[good])
    assert dataset["num_skipped"].item() == len(rows)
    assert f'not finite were left out: {{\\"(root)\\": {len(rows)}}}' in dataset.attrs["warnings"]


def test_only_the_layers_with_bad_features_skip_them(hand: Any) -> None:
    model = nn.Sequential(nn.Identity(), nn.Threshold(-1e30, 0.0))  # NaN > threshold is false: mended
    inputs, labels = hand.clustered(20, 6)
    inputs[4] = -torch.inf
    dataset = nc.analyze(model, [(inputs, labels)], non_finite="skip")
    assert dataset["num_skipped"].values.tolist() == [1, 0]
    assert dataset["class_count"].sum("class").values.tolist() == [19, 20]


def test_finite_features_too_large_to_square_say_how_to_go_on(hand: Any) -> None:
    inputs, labels = hand.clustered(20, 160)
    huge = 3e19 * inputs
    with pytest.raises(nc.NonFiniteError, match=r'precision="double" if they are finite but beyond 1e19'):
        nc.analyze(nn.Identity(), [(huge, labels)])
    with pytest.raises(nc.NonFiniteError, match=r'are finite, but too large to square; pass precision="double"$'):
        nc.analyze(nn.Identity(), [(huge, labels)], non_finite="skip")
    dataset = nc.analyze(nn.Identity(), [(huge, labels)], precision="double")
    hand.assert_layer_equals(dataset, "(root)", huge, labels)


# Padding ------------------------------------------------------------------------------------------------------------


class Tagger(nn.Module):
    """Token ids and a mask, as Hugging Face models take them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 5), nn.Linear(5, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.embed(input_ids))


def padded(num_batches: int, where: list[int]) -> list[dict[str, Tensor]]:
    """Batches of which some have padding."""
    ids = torch.arange(24).reshape(4, 6) % 9
    mask = torch.ones(num_batches, 4, 6, dtype=torch.int64)
    mask[where, 0, 3:] = 0
    return [{"input_ids": ids, "attention_mask": part, "labels": torch.tensor([0, 1, 0, 1])} for part in mask]


@pytest.mark.parametrize("where", [[0], [2, 3]], ids=["first", "later ones"])
def test_padding_in_any_batch_is_left_out(where: list[int], tmp_path: Path) -> None:
    model, loader = Tagger().double(), padded(4, where)
    dataset = nc.analyze(model, loader, resume=tmp_path / "state", precision="double")
    assert "padd" not in dataset.attrs["warnings"]
    again = nc.analyze(model, loader, resume=tmp_path / "state", precision="double")
    assert again.drop_attrs().equals(dataset.drop_attrs())
    single = [
        {"input_ids": ids[None, mask.bool()], "attention_mask": mask[None, mask.bool()], "labels": label[None]}
        for batch in loader
        for ids, mask, label in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
    ]
    expected = nc.analyze(model, single, precision="double")
    np.testing.assert_allclose(dataset["compression"], expected["compression"], rtol=1e-12)
    counted = nc.analyze(model, loader, mask=False, precision="double")
    assert (abs(counted["compression"] / dataset["compression"] - 1) > 1e-3).all()


# Samples and rows ---------------------------------------------------------------------------------------------------


def test_positions_do_not_count_as_samples(hand: Any, tmp_path: Path) -> None:
    model = hand.seeded(lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 6, 5)))
    batches = hand.in_batches(*hand.clustered(10, 2, 8), 4)
    for _ in range(2):  # the second time from the file
        moments = nc.collect(model, batches, layers=["0", "2"], pool={"0": "positions"}, resume=tmp_path / "state")
        dataset = nc.measure(moments)
        assert repr(moments) == "MomentCollection(2 layers, 10 samples, 3 classes)"
        assert dataset.attrs["num_samples"] == 10
        assert dataset["class_count"].sum("class").values.tolist() == [60, 10]


# Default device -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[0, 1, 0, 1, 1], torch.tensor([0, 1, 0, 1, 1])], ids=["list", "tensor"])
def test_a_default_device_moves_no_state(hand: Any, tmp_path: Path, labels: Any) -> None:
    model, batches = hand.seeded(lambda: nn.Linear(4, 150)), [(hand.randn(5, 4), labels), (hand.randn(5, 4), labels)]
    expected = nc.collect(model, batches, covariance=True)["(root)"]
    alone = nc.ClassMoments.from_features(batches[0][0].tolist(), labels, 3)
    torch.set_default_device("meta")
    try:
        for part in (batches[:1], batches):
            found = nc.collect(model, part, covariance=True, resume=tmp_path / "state")
        separation = nc.measure(found)["separation"]
        found.save(tmp_path / "moments")
        again = nc.MomentCollection.load(tmp_path / "moments")["(root)"]
        moments = nc.ClassMoments.from_features(batches[0][0].tolist(), labels, 3).merge(nc.ClassMoments.empty(3, 4))
    finally:
        torch.set_default_device(None)
    assert torch.equal(moments.scatter, alone.scatter)
    np.testing.assert_array_equal(separation, nc.measure(found)["separation"])
    for field in ("count", "reference", "offset_sum", "offset_square", "within_scatter"):
        assert torch.equal(getattr(again, field), getattr(expected, field))


# Random state of loaders --------------------------------------------------------------------------------------------


def test_a_shuffled_loader_leaves_the_random_state_and_can_be_repeated(hand: Any) -> None:
    data = torch.utils.data.TensorDataset(*hand.clustered(40, 6))
    loader = torch.utils.data.DataLoader(data, batch_size=7, shuffle=True)
    model = nn.Identity()
    seen: list[list[float]] = []
    with hand.left_alone(model):
        for _ in range(2):
            watched = _watch(loader, lambda batch: seen.append(batch[0][:, 0].tolist()))
            nc.collect(model, watched)
    assert seen[: len(loader)] == seen[len(loader) :]


def _watch(loader: Any, see: Callable[[Any], None]) -> Iterator[Any]:
    for batch in loader:
        see(batch)
        yield batch


def test_the_global_states_of_numpy_and_python_are_not_touched_by_the_library(hand: Any) -> None:
    random.seed(5)
    with hand.left_alone():
        nc.analyze(nn.Identity(), [hand.clustered(20, 6)])
