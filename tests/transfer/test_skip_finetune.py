"""One layer and the head are trained, joined by a skip connection: frozen, added, saved and merged as told."""

import copy
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from neurocollapse.models import SmallVGG, SmallViT, mlp
from neurocollapse.transfer import TransferError, layer_finetune, load_tuned, skip_finetune


class Block(nn.Module):
    """A residual block of a small ResNet."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        hidden = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(hidden)) + self.down(x))


class ResNet(nn.Module):
    def __init__(self, width=4, num_classes=3):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.layer1 = nn.Sequential(Block(width, width, 1), Block(width, width, 1))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1))
        self.fc = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        return self.fc(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))


class Tokens(nn.Module):
    """A classifier of sequences, which reads the first token, with an attention mask."""

    def __init__(self, first_only=True):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.head = nn.Linear(6, 3)
        self.first_only = first_only

    def forward(self, input_ids, attention_mask=None):
        hidden = self.embed(input_ids)
        for block in self.blocks:
            hidden = torch.tanh(block(hidden))
        return self.head(hidden[:, 0] if self.first_only else hidden)


def images(samples=5, seed=0):
    return torch.randn(samples, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def by_hand(model, layer, inputs, width):
    """The logits of a ResNet with the skip, computed without the library."""
    kept = {}
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: kept.update(output=output))
    hidden = model.layer2(model.layer1(model.stem(inputs))).mean((2, 3))
    handle.remove()
    pooled = kept["output"].mean((2, 3))
    padded = torch.cat([pooled, pooled.new_zeros(len(pooled), width - pooled.shape[1])], dim=1)
    return functional.linear(hidden + padded, model.fc.weight, model.fc.bias)


@pytest.mark.parametrize("layer", ["layer1.0", "layer1", "layer2.1", "stem", "layer1.1.conv2"])
def test_the_skip_adds_the_pooled_and_padded_layer(layer):
    model = ResNet().double().eval()
    expected = by_hand(model, layer, images().double(), 8)
    plain = model(images().double())
    tuned = skip_finetune(model, layer, images(2, seed=1).double())
    torch.testing.assert_close(model(images().double()), expected, rtol=1e-12, atol=1e-12)
    tuned.remove()
    assert torch.equal(model(images().double()), plain)


def test_only_the_layer_and_the_head_learn():
    model = ResNet()
    before = copy.deepcopy(model.state_dict())
    tuned = skip_finetune(model, "layer1.1", images())
    optimizer = torch.optim.SGD(tuned.parameters(), lr=0.1)
    for step in range(3):
        tuned.train()
        functional.cross_entropy(model(images(seed=step)), torch.tensor([0, 1, 2, 0, 1])).backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith(("layer1.1.", "fc.")) for name in changed)
    assert tuned.num_parameters == sum(p.numel() for p in [*model.layer1[1].parameters(), *model.fc.parameters()])


def test_the_gradient_of_the_layer_passes_through_both_ways():
    model = ResNet().double()
    tuned = skip_finetune(model.eval(), "layer1.1", images().double())
    model(images().double()).square().sum().backward()
    both = model.layer1[1].conv1.weight.grad.clone()
    tuned.remove()
    model.zero_grad()
    by_hand(model, "layer1.1", images().double(), 8).square().sum().backward()
    torch.testing.assert_close(both, model.layer1[1].conv1.weight.grad, rtol=1e-10, atol=1e-12)


def test_merged_gives_the_same_outputs_without_hooks():
    model = ResNet()
    tuned = skip_finetune(model, "layer1.1", images())
    model.eval()
    expected = model(images(7, seed=3))
    merged = tuned.merge()
    torch.testing.assert_close(merged(images(7, seed=3)), expected, rtol=1e-6, atol=1e-6)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in merged.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert merged.state_dict().keys() <= model.state_dict().keys()
    assert all(parameter.requires_grad for parameter in merged.parameters())


@pytest.mark.parametrize("pool", ["mean", "cls", "last"])
def test_tokens_are_pooled_without_their_padding(pool):
    model = Tokens().double().eval()
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    skip_finetune(model, "blocks.0", {"input_ids": ids, "attention_mask": mask}, pool=pool)
    padded = model(ids, attention_mask=mask)
    alone = torch.cat([model(ids[:1]), model(ids[1:, :3])])
    torch.testing.assert_close(padded, alone, rtol=1e-12, atol=1e-12)


def test_a_head_at_every_token_gets_every_token():
    model = Tokens(first_only=False).double().eval()
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0]])
    hidden = torch.tanh(model.blocks[0](model.embed(ids)))
    expected = model(ids) + functional.linear(model.blocks[0](model.embed(ids)), model.head.weight)
    skip_finetune(model, "blocks.0", ids)
    torch.testing.assert_close(model(ids), expected, rtol=1e-12, atol=1e-12)
    assert hidden.shape == (2, 4, 6)


def test_saved_and_loaded_on_the_original_model(tmp_path):
    torch.manual_seed(3)
    original = ResNet()
    model = copy.deepcopy(original)
    tuned = skip_finetune(model, "layer1.1", images())
    optimizer = torch.optim.SGD(tuned.parameters(), lr=0.1)
    tuned.train()
    model(images()).square().sum().backward()
    optimizer.step()
    path = tuned.save(tmp_path / "skip.safetensors")
    again = load_tuned(original, path)
    assert torch.equal(original.eval()(images()), model.eval()(images()))
    assert list(again) == ["layer1.1", "fc"]
    assert path.stat().st_size < 4 * sum(p.numel() for p in model.parameters())


def test_running_statistics_that_moved_are_not_saved_in_silence(tmp_path):
    model = ResNet()
    tuned = skip_finetune(model, "layer1.1", images())
    model.train()
    model(images())
    with pytest.raises(TransferError, match=r"layer1\.0\.bn1\.running_mean.* moved.*tuned\.train\(\)"):
        tuned.save(tmp_path / "skip.safetensors")
    with pytest.raises(TransferError, match="moved"):
        tuned.merge()
    assert not list(tmp_path.iterdir())


def test_a_copy_of_the_model_has_a_skip_of_its_own():
    model = ResNet().eval()
    skip_finetune(model, "layer1.1", images())
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.layer1[1].conv1.weight.mul_(2)
    assert not torch.equal(twin(images()), model(images()))
    for one in (model, twin):
        torch.testing.assert_close(one(images()), by_hand(one, "layer1.1", images(), 8), rtol=1e-5, atol=1e-6)


def test_four_threads_do_not_mix_their_passes():
    model = ResNet().double().eval()
    skip_finetune(model, "layer1.1", images().double())
    batches = [images(samples, seed=samples).double() for samples in (3, 5, 6, 7)]
    expected = [model(batch) for batch in batches]
    wrong = []

    def work(index):
        wrong.extend(index for _ in range(20) if not torch.equal(model(batches[index]), expected[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first, self.head, self.reentrant = nn.Linear(4, 4), nn.Linear(4, 2), reentrant

    def forward(self, x):
        return self.head(checkpoint(self.inner, x, use_reentrant=self.reentrant))

    def inner(self, x):
        return torch.tanh(self.first(x))


def test_a_checkpoint_that_hides_the_gradient_is_refused():
    inputs = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    fine = Checkpointed(False)
    skip_finetune(fine, "first", inputs)
    fine(inputs).sum().backward()
    assert fine.first.weight.grad.abs().sum() > 0
    broken = Checkpointed(True)
    skip_finetune(broken, "first", inputs)
    with pytest.raises(TransferError, match="use_reentrant=False"):
        broken(inputs)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(self.body(x)))


class Reversed(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.head(x))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(x) if x.sum() > 0 else self.body(-x))


WIDE = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 2))


@pytest.mark.parametrize(
    ("model", "layer", "options", "words"),
    [
        (WIDE, "0", {}, "'0' has 9 features and '4' reads 5"),
        (WIDE, "1", {}, "ReLU"),
        (WIDE, "4", {}, "nothing but the head"),
        (WIDE, "seven", {}, "seven"),
        (WIDE, "linear", {}, "a skip starts at one layer"),
        (WIDE, "2", {"head": "3"}, "`head` = 3 is no linear layer"),
        (WIDE, "2", {"pool": "median"}, "`pool` must be"),
        (Twice(), "body", {}, "more than once"),
        (Reversed(), "last", {"head": "head"}, "runs behind the head"),
        (nn.ReLU(), "relu", {}, "no linear layer"),
    ],
)
def test_what_cannot_be_connected_is_refused_and_leaves_the_model(model, layer, options, words):
    frozen = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(ValueError, match=words) as caught:
        skip_finetune(model, layer, torch.zeros(2, 4), **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300
    assert [parameter.requires_grad for parameter in model.parameters()] == frozen
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("build", "layer", "shape"),
    [
        (lambda: SmallVGG(1, 3, widths=(4, 8), hidden=8), "blocks.0", (4, 1, 8, 8)),
        (lambda: SmallViT(8, 3, width=8, depth=2, num_heads=2, hidden=8), "blocks.0", (4, 1, 8, 8)),
        (lambda: mlp(16, 8, 3, depth=2), "layers.0", (4, 1, 4, 4)),
    ],
)
def test_the_models_of_the_library_can_be_merged(build, layer, shape):
    model = build().eval()
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    tuned = skip_finetune(model, layer, inputs)
    expected = model(inputs)
    merged = tuned.merge()
    torch.testing.assert_close(merged(inputs), expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="must"):
        merged(torch.zeros(2, 1, 3, 3))


def test_a_model_that_cannot_be_traced_keeps_its_skip():
    model = Branching()
    tuned = skip_finetune(model, "body", torch.ones(2, 4))
    expected = model(torch.ones(2, 4))
    with pytest.raises(TransferError, match=r"Branching cannot be traced .* use save and load_tuned"):
        tuned.merge()
    assert torch.equal(model(torch.ones(2, 4)), expected)
    tuned.remove()
    with pytest.raises(TransferError, match="merged or removed already"):
        tuned.remove()


class Attends(nn.Module):
    """Attention, whose output is a tuple, with a head that is called by keyword."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(input=self.attention(x, x, x)[0].mean(1))


class Half(nn.Module):
    """A body in half precision, with a head in full."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3).bfloat16(), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(x.bfloat16()).float().mean((2, 3)))


class Named(Tokens):
    """The same tokens from one mapping."""

    def forward(self, batch):
        return super().forward(batch["input_ids"], batch["attention_mask"])


IDS = {"input_ids": torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0]]), "attention_mask": torch.tensor([[1] * 4, [1, 1, 1, 0]])}


@pytest.mark.parametrize(
    ("build", "layer", "example", "pool"),
    [
        (Attends, "attention", torch.linspace(-1, 1, 24).reshape(2, 3, 4), "auto"),
        (Half, "body", images(), "auto"),
        (Half, "body", images(), "max"),
        (Tokens, "blocks.0", IDS, "mean"),
        (Tokens, "blocks.0", IDS, "cls"),
        (Tokens, "blocks.0", IDS, "last"),
        (Tokens, "blocks.0", {"input_ids": IDS["input_ids"]}, "mean"),
        (Named, "blocks.0", (IDS,), "last"),
        (Tokens, "blocks.1", IDS["input_ids"], "auto"),
    ],
)
def test_merged_is_the_same_for_every_kind_of_layer_and_when_it_is_read_from_a_file(
    tmp_path, build, layer, example, pool
):
    model = build().eval()
    tuned = skip_finetune(model, layer, example, pool=pool)
    call = (lambda one: one(**example)) if isinstance(example, dict) else (lambda one: one(*as_tuple(example)))
    expected = call(model)
    merged = tuned.merge()
    torch.testing.assert_close(call(merged), expected, rtol=1e-6, atol=1e-6)
    torch.save(merged, tmp_path / "merged.pt")
    again = torch.load(tmp_path / "merged.pt", weights_only=False)
    torch.testing.assert_close(call(again), expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(call(model), expected, rtol=1e-6, atol=1e-6)


def as_tuple(example):
    return example if isinstance(example, tuple) else (example,)


def test_a_merged_model_is_read_where_this_library_is_not_installed(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    tuned = skip_finetune(model, "0", images())
    expected = model(images())
    torch.save({"model": tuned.merge(), "images": images(), "expected": expected}, tmp_path / "merged.pt")
    script = (
        "import sys, torch; sys.modules['neurocollapse'] = None\n"
        f"kept = torch.load({str(tmp_path / 'merged.pt')!r}, weights_only=False)\n"
        "torch.testing.assert_close(kept['model'](kept['images']), kept['expected'], rtol=1e-6, atol=1e-6)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.optim.swa_utils.AveragedModel])
def test_the_head_is_found_inside_wrappers(wrap):
    model = wrap(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    assert list(skip_finetune(model, "0", torch.zeros(3, 4))) == ["0", "2"]


@pytest.mark.parametrize("example", [None, 3, "text", [(torch.zeros(2, 4), torch.zeros(2))], torch.zeros(2, 5)])
def test_an_example_that_the_model_cannot_take_is_refused_in_one_line(example):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with pytest.raises(TransferError, match="the model fails on `example`") as caught:
        skip_finetune(model, "0", example)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_layer_with_samples_in_axis_one_is_told_so_whatever_comes_in():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells, self.head = nn.LSTM(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.cells(x)[0][-1])

    with pytest.raises(TransferError, match="use batch_first=True"):
        skip_finetune(Recurrent(), "cells", torch.zeros(7, 5, 3))


@pytest.mark.parametrize("again", ["skip", "layer", "load"])
def test_a_model_with_a_skip_gets_no_second_one(tmp_path, again):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    tuned = skip_finetune(model, "0", torch.zeros(3, 4))
    path = tuned.save(tmp_path / "skip.safetensors")
    expected, trained = model(torch.ones(3, 4)), [parameter.requires_grad for parameter in model.parameters()]
    calls = {
        "skip": lambda: skip_finetune(model, "2", torch.zeros(3, 4)),
        "layer": lambda: layer_finetune(model, "2"),
        "load": lambda: load_tuned(model, path),
    }
    with pytest.raises(TransferError, match=r"has a skip already; call remove\(\) or merge\(\)"):
        calls[again]()
    assert torch.equal(model(torch.ones(3, 4)), expected)
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    tuned.remove()
    calls[again]()
