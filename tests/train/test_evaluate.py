"""Loss and accuracy of a trained model."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from neurocollapse.train import TrainingError, evaluate


def dataset(num_samples: int = 11) -> TensorDataset:
    source = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(num_samples, 4, generator=source), torch.arange(num_samples) % 4)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_evaluation_equals_a_loop_over_samples(batch_size: int, loss: str) -> None:
    data = dataset()
    result = evaluate(nn.Identity(), data, loss=loss, batch_size=batch_size)
    losses, correct = [], 0
    for scores, label in data:
        target = torch.eye(4)[label]
        losses.append(((scores - target) ** 2).sum() if loss == "mse" else -scores.log_softmax(0)[label])
        correct += int(max(range(4), key=lambda k: scores[k]) == label)
    assert result.loss == pytest.approx(float(sum(losses)) / 11, rel=1e-6)  # float32 sums in another order
    assert result.accuracy == correct / 11


def test_perfect_scores_have_accuracy_one_and_no_loss() -> None:
    labels = torch.arange(8) % 4
    result = evaluate(nn.Identity(), TensorDataset(torch.eye(4)[labels], labels), loss="mse")
    assert (result.loss, result.accuracy) == (0, 1)


def test_evaluation_is_in_eval_mode_and_leaves_everything_as_it_was() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4))
    model[0].eval()
    before = torch.get_rng_state()
    assert evaluate(model, dataset()) == evaluate(model, dataset())
    assert torch.equal(before, torch.get_rng_state())
    assert [module.training for module in model.modules()] == [True, False, True]
    assert not model[1].running_mean.any()


def test_a_model_that_draws_in_eval_mode_leaves_the_random_state() -> None:
    class Noisy(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return functional.dropout(inputs)  # drops in eval mode too

    before = torch.get_rng_state()
    evaluate(Noisy(), dataset())
    assert torch.equal(before, torch.get_rng_state())


def test_labels_must_be_integers() -> None:
    one_hot = TensorDataset(torch.zeros(4, 4), torch.eye(4))
    with pytest.raises(TrainingError, match=r"one integer label per sample, got a batch of float32 of shape \(4, 4\)"):
        evaluate(nn.Identity(), one_hot, batch_size=4)


def test_modes_are_put_back_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(TrainingError, match="scores for 2 classes, but the labels run from 0 to 3"):
        evaluate(model, dataset())
    assert model.training


@pytest.mark.parametrize(
    ("options", "message"), [({"loss": "msee"}, "did you mean 'mse'"), ({}, "at least one sample")]
)
def test_wrong_arguments_get_one_clear_line(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(nn.Identity(), dataset(0), **options)
