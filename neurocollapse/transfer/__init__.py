"""Fine-tuning by few layers: which layer, one layer, and one layer with a connection to the head."""

from neurocollapse.transfer.errors import TransferError
from neurocollapse.transfer.finetune import layer_finetune, load_tuned, skip_finetune
from neurocollapse.transfer.skip import Skip
from neurocollapse.transfer.tuned import Tuned

__all__ = ["Skip", "TransferError", "Tuned", "layer_finetune", "load_tuned", "skip_finetune"]
