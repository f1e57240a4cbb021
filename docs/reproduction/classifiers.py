"""Printed numbers about trained classifiers and adapters."""

from collections.abc import Callable, Iterator

import xarray as xr

from reproduction.printed import Printed, at

HYBRID = {"data": "cifar10", "width": 1024, "epochs": 400}
TABLE = {"data": ["mnist", "fashion-mnist", "usps"], "width": 2000}
PAIRS = {"model_folder": "bert-base-cased", "data_folder": "sts-b"}


def _of_layer(network: str, name: str, layer: int) -> Callable[[xr.Dataset], xr.DataArray]:
    """A number of one layer, counted from either end."""
    return lambda dataset: dataset[name].sel(network=network).isel(layer=layer)


def _hybrids() -> Iterator[Printed]:
    """D of the first and last hidden layers, and S."""
    for network, layer, printed in (("MLP", 1, "23"), ("MLP", -1, "0.17"), ("hybrid", 1, "17"), ("hybrid", -1, "0.01")):
        quantity = f"{network}: D of the {'first' if layer == 1 else 'last'} hidden layer"
        values = _of_layer(network, "compression", layer)
        yield Printed("hybrid-vs-mlp", quantity, "F", printed, values=values, given=HYBRID)
    values = _of_layer("hybrid", "separation", -1)
    yield Printed("hybrid-vs-mlp", "hybrid: S of the last hidden layer", "F", "0.85", values=values, given=HYBRID)


def _low_rank() -> Iterator[Printed]:
    """The table of low-rank networks."""
    for network, millions, accuracy in (
        ("full", "5.59", "0.9509"),
        ("rank 10", "1.67", "0.9457"),
        ("rank 1", "1.59", "0.9086"),
    ):
        claim = f"millions of parameters of {network} ="
        yield Printed("low-rank-mlp", f"{network}: parameters, millions", "S", millions, claim, given={"width": 2000})
        claim, values = f"average accuracy of {network} =", at("test_accuracy", network=network)
        yield Printed("low-rank-mlp", f"{network}: mean test accuracy", "S", accuracy, claim, values, TABLE)


def _adapters() -> Iterator[Printed]:
    """Correlations on few pairs of sentences, and the table of adapters of a vision transformer."""
    rows = {"LoRA": ("0.53", "0.735", "0.814"), "Deep LoRA": ("0.597", "0.75", "0.828")}
    for kind, row in rows.items():
        for pairs, printed in zip((16, 64, 256), row, strict=True):
            values = at("pearson_by_size", kind=kind, train_size=pairs)
            yield Printed("deep-lora", f"{kind}, {pairs} pairs: correlation", "F", printed, values=values, given=PAIRS)
    for kind, printed in (("LoRA", "0.175"), ("Deep LoRA", "0.667")):
        values = at("pearson_by_rank", kind=kind, rank=64)
        yield Printed("deep-lora", f"{kind}, 16 pairs, rank 64: correlation", "F", printed, values=values, given=PAIRS)
    table = {"full": ("86.7", "99.07", "93.27"), "LoRA": ("0.33", "98.97", "92.85")}
    table["AdaLoRA"] = ("0.33", "98.87", "92.93")
    for kind, (millions, *accuracies) in table.items():
        number, given = f"ViT-B, {kind}", {"data": "cifar10", "model": "timm:vit_base_patch16_224"}
        trained = _scaled(at("num_trained", tuning=kind), 1e-6)
        yield Printed(
            "adapters-vision", f"{number}: trained parameters, millions", "S", millions, values=trained, given=given
        )
        for data, printed in zip(("CIFAR-10", "CIFAR-100"), accuracies, strict=True):
            percent = _scaled(at("accuracy", tuning=kind), 100)
            given = given | {"data": data.lower().replace("-", "")}
            yield Printed(
                "adapters-vision", f"{number}: accuracy on {data}, %", "S", printed, values=percent, given=given
            )


def _scaled(values: Callable[[xr.Dataset], xr.DataArray], factor: float) -> Callable[[xr.Dataset], xr.DataArray]:
    """Values in another unit."""
    return lambda dataset: factor * values(dataset)


NUMBERS = (*_hybrids(), *_low_rank(), *_adapters())
