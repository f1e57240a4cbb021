"""Adapters: small trainable changes of the dense layers of a frozen model."""

from neurocollapse.lowrank.adapters.chain import Chain
from neurocollapse.lowrank.adapters.injection import Adapters, inject
from neurocollapse.lowrank.adapters.kinds import CompressedDeepLoRA, DeepLoRA, LoRA
from neurocollapse.lowrank.adapters.peft import load_peft, save_peft
from neurocollapse.lowrank.adapters.selection import AdapterError
from neurocollapse.lowrank.adapters.storage import load_adapters, save_adapters

__all__ = [
    "AdapterError",
    "Adapters",
    "Chain",
    "CompressedDeepLoRA",
    "DeepLoRA",
    "LoRA",
    "inject",
    "load_adapters",
    "load_peft",
    "save_adapters",
    "save_peft",
]
