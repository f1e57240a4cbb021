"""Models to train and to open: linear networks, perceptrons, a small CNN, ViT and GPT, and the user's own by name."""

from neurocollapse.models.checkpoint import load_weights, read_state
from neurocollapse.models.cnn import SmallVGG
from neurocollapse.models.errors import ModelError
from neurocollapse.models.initialise import init_weights, initial_weight
from neurocollapse.models.language import SmallGPT
from neurocollapse.models.linear import DeepLinear, linear_weights
from neurocollapse.models.mlp import HybridMLP, mlp
from neurocollapse.models.registry import open
from neurocollapse.models.scale import Scale
from neurocollapse.models.tokenizer import LocalTokenizer, read_tokenizer
from neurocollapse.models.vit import SmallViT

__all__ = [
    "DeepLinear",
    "HybridMLP",
    "LocalTokenizer",
    "ModelError",
    "Scale",
    "SmallGPT",
    "SmallVGG",
    "SmallViT",
    "init_weights",
    "initial_weight",
    "linear_weights",
    "load_weights",
    "mlp",
    "open",
    "read_state",
    "read_tokenizer",
]
