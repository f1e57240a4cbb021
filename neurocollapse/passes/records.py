"""What sinks, files and datasets call a site, and what is known of it."""

from collections.abc import Mapping

from torch import Tensor

from neurocollapse.hooks import Site, SiteKey
from neurocollapse.statistics import LayerRecord

INPUT = SiteKey(-1, 0)
"""Key of the network's input, which comes from the loader and not from a hook."""


def site_of(key: SiteKey) -> str:
    """What sinks and files call a site: the same in every process, unlike names, which the first batch settles."""
    return "input" if key == INPUT else f"{key.tap}.{key.call}"


def records_of(sites: Mapping[SiteKey, Site], inputs: Tensor | None) -> dict[str, LayerRecord]:
    """The record of each site, in order of firing, behind that of the network's input if it counts as a layer."""
    records = {}
    if inputs is not None:
        dtype = str(inputs.dtype).removeprefix("torch.")
        records[site_of(INPUT)] = LayerRecord("input", 0, "Input", pooling="flatten", feature_dtype=dtype)
    for key, site in sites.items():
        records[site_of(key)] = LayerRecord(
            name=site.name,
            depth=site.depth + 1,
            module_type=site.module_type,
            layout=site.layout,
            pooling=site.pooling,
            feature_dtype=str(site.dtype).removeprefix("torch."),
            positions=site.positions,
        )
    return records
