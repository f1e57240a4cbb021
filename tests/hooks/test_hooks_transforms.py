"""Inside the transforms of torch.func, a layer gives the features of all samples or says what is in the way."""

import io

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import neurocollapse as nc
from neurocollapse.hooks import AmbiguousOutputError, CaptureWarning, capture

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # torch's own, in forward mode


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5))


def inputs():
    return torch.randn(12, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "run",
    [
        lambda model, x: grad(lambda a: model(a).sum())(x),
        lambda model, x: grad(lambda a: grad(lambda b: (model(b) ** 2).sum())(a).sum())(x),
        lambda model, x: vjp(model, x),
        lambda model, x: jvp(model, (x,), (x,)),
        lambda model, x: jacfwd(model)(x),
        lambda model, x: hessian(lambda a: (model(a) ** 2).sum())(x),
        lambda model, x: functional_call(model, dict(model.named_parameters()), (x,)),
        lambda model, x: grad(lambda weights: functional_call(model, weights, (x,)).sum())(
            dict(model.named_parameters())
        ),
    ],
    ids=["grad", "grad of grad", "vjp", "jvp", "jacfwd", "hessian", "functional_call", "grad by weights"],
)
def test_what_keeps_every_axis_gives_plain_features_of_all_samples(run):
    model, x = linear(), inputs()
    with capture(model, "0") as features:
        for _ in range(2):
            run(model, x)
            assert torch.equal(features["0"], model[0](x).detach())
            torch.save(features["0"], io.BytesIO())


@pytest.mark.parametrize(
    "run",
    [
        lambda model, x: vmap(model)(x),
        lambda model, x: vmap(model, in_dims=1, out_dims=1)(x.unsqueeze(1).expand(-1, 4, -1)),
        lambda model, x: vmap(grad(lambda a: model(a).sum()))(x),
        lambda model, x: vmap(vmap(model))(x.unsqueeze(1)),
        lambda model, x: jacrev(lambda a: vmap(model)(a).sum(0))(x),
    ],
    ids=["samples", "positions", "gradients", "twice", "jacrev"],
)
def test_what_hides_an_axis_is_refused_in_one_line(run):
    model = linear()
    with pytest.raises(AmbiguousOutputError, match=r"'0': .* inside torch.func.vmap") as caught, capture(model, "0"):
        run(model, inputs())
    assert len(str(caught.value)) <= 300


class Views(nn.Module):
    """Every view of a sample by itself."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(vmap(self.encoder, in_dims=1, out_dims=1)(x).mean(1))


def test_a_layer_inside_vmap_that_nobody_named_is_left_out():
    model = Views()
    batches = [(torch.randn(12, 4, 6, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 3)]
    with pytest.warns(CaptureWarning, match=r"encoder: the layer runs inside torch.func.vmap"):
        found = nc.analyze(model, batches, progress=False)
    expected = nc.analyze(model, batches, layers="head", progress=False)
    assert list(found.layer.values) == ["head"]
    assert found.compression.values == expected.compression.values
