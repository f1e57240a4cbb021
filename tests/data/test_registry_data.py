"""Data by name: digits, the user's own factories, and the names that are wrong."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from neurocollapse import data
from neurocollapse.data import DataError


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in a folder of the user's, from which nothing stays imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    yield tmp_path / "own_data.py"
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def test_digits_are_images_with_values_between_zero_and_one() -> None:
    digits = data.open("digits")
    assert digits.inputs.shape == (1437, 1, 8, 8)
    assert (digits.inputs.min().item(), digits.inputs.max().item()) == (0, 1)
    assert digits.classes == tuple("0123456789")


def test_digits_splits_are_stratified_and_share_no_sample() -> None:
    train, test = data.open("digits"), data.open("digits", split="test")
    total = (torch.bincount(train.labels) + torch.bincount(test.labels)) / 5
    assert (torch.bincount(test.labels) - total).abs().max() < 1  # a fifth of every class, to within one sample
    images = torch.cat([train.inputs, test.inputs]).flatten(1)
    assert len(images.unique(dim=0)) == len(images) == 1797


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("digts", "did you mean 'digits'?"),
        ("mnits:/data", "did you mean 'mnist:ROOT'?"),
        ("cifar-10:/data", "did you mean 'cifar10:ROOT'?"),
        ("fashion_mnist:/data", "did you mean 'fashion-mnist:ROOT'?"),
        ("Folder:/data", "did you mean 'folder:ROOT'?"),
        ("mnist", "did you mean 'mnist:ROOT'?"),
        ("mnist:", "did you mean 'mnist:ROOT'?"),
        ("digits:x", "did you mean 'digits'?"),
        ("npy:x", "(there is no module 'npy')"),
        ("", "got ''"),
    ],
)
def test_unknown_names_list_the_known_ones_and_the_nearest(spec: str, hint: str) -> None:
    with pytest.raises(DataError) as caught:
        data.open(spec)
    message = str(caught.value)
    assert "digits, mnist:ROOT, fashion-mnist:ROOT, cifar10:ROOT, folder:ROOT, npz:FILE" in message
    assert hint in message
    assert "\n" not in message


def test_a_wrong_split_is_refused() -> None:
    with pytest.raises(DataError, match="`split` must be 'train' or 'test', got 'valid'"):
        data.open("digits", split="valid")


def test_image_size_belongs_to_folders() -> None:
    with pytest.raises(DataError, match="`image_size` belongs to 'folder:ROOT'"):
        data.open("digits", image_size=32)


def test_a_specification_must_be_a_string() -> None:
    with pytest.raises(TypeError, match="`data` must be a string"):
        data.open(3)  # wrong on purpose


@pytest.mark.parametrize("spec", ["mnist:{}", "fashion-mnist:{}", "cifar10:{}", "folder:{}", "npz:{}"])
def test_a_missing_place_is_named(spec: str, tmp_path: Path) -> None:
    place = tmp_path / "nowhere"
    with pytest.raises(DataError, match="nowhere"):
        data.open(spec.format(place))


FACTORIES = """
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset
from neurocollapse.data import LabelledData

def pair(split):
    n = 4 if split == "train" else 2
    return torch.arange(float(n)).double(), torch.arange(n) % 2

def arrays():
    import numpy
    return numpy.zeros((3, 2)), numpy.array([0, 1, 1])

def lists():
    return torch.zeros(2, 5), [0, 3]

def labelled(**options):
    return LabelledData(torch.zeros(2, 1), torch.tensor([0, 1]), ("cat", "dog"), options["split"])

def dataset(split):
    return TensorDataset(torch.zeros(3, 4), torch.tensor([0, 2, 1]))

class Named(Dataset):
    classes = ["left", "right"]
    targets = [1, 0]
    def __len__(self): return 2
    def __getitem__(self, index): raise RuntimeError("not to be read for its labels")

def mappings():
    return _Mappings()

class _Mappings(Dataset):
    def __len__(self): return 2
    def __getitem__(self, index): return {"pixels": torch.zeros(3), "labels": index}

class Words(TensorDataset):
    labels = ["left", "right"]
    def __init__(self): super().__init__(torch.zeros(2, 3), torch.tensor([1, 0]))

class Own(Dataset):
    def __init__(self, targets): self.targets = targets
    def __len__(self): return len(self.targets)
    def __getitem__(self, index): return torch.zeros(3), self.targets[index]

def strings(): return Own(["a", "b"])
def digits_as_strings(): return Own(["1", "2"])
def floats(): return Own([0.0, 1.0])
def float_tensor(): return Own(torch.tensor([0.0, 1.0]))
def one_hot(): return Own([[1, 0], [0, 1]])
def below_zero(): return Own([0, 1, -7])
def string_pair(): return torch.zeros(2, 3), ["a", "b"]
def string_array():
    import numpy
    return torch.zeros(2, 3), numpy.array(["a", "b"])

def loader(): return DataLoader(dataset("train"))
def nothing(): return None
def broken(): raise OSError("disk on fire\\nsecond line")
def no_labels(): return TensorDataset(torch.zeros(3, 4))
def float_labels(): return torch.zeros(2, 2), torch.tensor([0.5, 1.0])
def negative(): return torch.zeros(2, 2), torch.tensor([0, -1])
def huge(): return torch.zeros(2, 2), torch.tensor([0, 10**12])
constant = 3
"""


def test_factories_are_found_in_the_current_folder(own_module: Path) -> None:
    own_module.write_text(FACTORIES)
    train, test = data.open("own_data:pair"), data.open("own_data:pair", split="test")
    assert (len(train), len(test)) == (4, 2)
    assert train.inputs.dtype == torch.float32
    assert train.classes == ("0", "1")


@pytest.mark.parametrize(
    ("name", "labels", "classes"),
    [
        ("arrays", [0, 1, 1], ("0", "1")),
        ("lists", [0, 3], ("0", "1", "2", "3")),
        ("labelled", [0, 1], ("cat", "dog")),
        ("dataset", [0, 2, 1], ("0", "1", "2")),
        ("Named", [1, 0], ("left", "right")),
        ("mappings", [0, 1], ("0", "1")),
        ("Words", [1, 0], ("0", "1")),
    ],
)
def test_factories_may_return_data_in_any_usual_form(
    own_module: Path, name: str, labels: list[int], classes: tuple[str, ...]
) -> None:
    own_module.write_text(FACTORIES)
    opened = data.open(f"own_data:{name}")
    assert opened.labels.tolist() == labels
    assert opened.classes == classes


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("own_data:loader", "own_data:loader: the factory returned a DataLoader; return its dataset"),
        ("own_data:nothing", "must return a LabelledData, .* got a NoneType"),
        ("own_data:broken", "own_data:broken failed: OSError: disk on fire$"),
        ("own_data:no_labels", "integer label. pairs, sample 0 is not one"),
        ("own_data:float_labels", "`labels` must be a tensor of shape .* of integers"),
        ("own_data:negative", r"integers in \[0, 1\), got -1 at position 1"),
        ("own_data:huge", "`labels` must lie below 1000000, got 1000000000000"),
        ("own_data:strings", "must hold .input, integer label. pairs, sample 0 is not one"),
        ("own_data:digits_as_strings", "must hold .input, integer label. pairs, sample 0 is not one"),
        ("own_data:floats", "must hold .input, integer label. pairs, sample 0 is not one"),
        ("own_data:float_tensor", "must hold .input, integer label. pairs, sample 0 is not one"),
        ("own_data:one_hot", "must hold .input, integer label. pairs, sample 0 is not one"),
        ("own_data:below_zero", r"own_data:below_zero: `labels` must hold integers in \[0, 2\), got -7 at position 2"),
        ("own_data:string_pair", r"a pair of tensors \(inputs, labels\) of numbers, got a tuple"),
        ("own_data:string_array", r"a pair of tensors \(inputs, labels\) of numbers, got a tuple"),
        ("own_data:constant", "must be a function that returns labelled data, got a int"),
        ("own_data:absent", "own_data has no 'absent'"),
        ("own_dta:pair", "there is no module 'own_dta'"),
        ("own_failing:pair", "own_failing cannot be imported: ZeroDivisionError: division by zero"),
        ("own_lacking:pair", "own_lacking cannot be imported: ModuleNotFoundError: No module named 'not_installed'"),
        ("own_syntax:pair", "own_syntax cannot be imported: SyntaxError"),
    ],
)
def test_failing_factories_get_one_clear_line(own_module: Path, spec: str, message: str) -> None:
    own_module.write_text(FACTORIES)
    own_module.with_name("own_failing.py").write_text("1 / 0")
    own_module.with_name("own_lacking.py").write_text("import not_installed")
    own_module.with_name("own_syntax.py").write_text("def pair(:")
    with pytest.raises(DataError, match=message) as caught:
        data.open(spec)
    assert "\n" not in str(caught.value)


def test_a_factory_without_split_has_no_test_split(own_module: Path) -> None:
    own_module.write_text(FACTORIES)
    with pytest.raises(DataError, match="own_data:arrays takes no `split`"):
        data.open("own_data:arrays", split="test")
