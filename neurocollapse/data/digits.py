"""The handwritten digits that ship with scikit-learn: the data set that needs no file."""

import torch

from neurocollapse.data.labelled import LabelledData

TEST_EVERY = 5


def read_digits(split: str) -> LabelledData:
    """Read scikit-learn's 1,797 handwritten digits, 8 × 8 pixels with values in [0, 1].

    The split draws no random numbers: of the samples ordered by class (and within a class as they come) every fifth
    is a test sample. That leaves 1,437 for training and 360 for testing, stratified to within one sample per class.

    Returns
    -------
    LabelledData
        Inputs of shape (samples, 1, 8, 8).

    Examples
    --------
    >>> len(read_digits("train")), len(read_digits("test"))
    (1437, 360)
    """
    from sklearn.datasets import load_digits  # a second of imports, and only this reader needs them

    images, targets = load_digits(return_X_y=True)
    labels = torch.from_numpy(targets).to(torch.int64)
    by_class = labels.argsort(stable=True)
    is_test = torch.zeros(len(labels), dtype=torch.bool, device="cpu")
    is_test[by_class[::TEST_EVERY]] = True
    chosen = is_test if split == "test" else ~is_test
    inputs = torch.from_numpy(images).to(torch.float32).reshape(-1, 1, 8, 8) / 16
    return LabelledData(inputs[chosen], labels[chosen], tuple("0123456789"), f"digits/{split}")
