"""Models to train and to open: the hybrid multilayer perceptron, its initialisations, and the user's own by name."""

from neurocollapse.models.checkpoint import load_weights, read_state
from neurocollapse.models.errors import ModelError
from neurocollapse.models.initialise import init_weights, initial_weight
from neurocollapse.models.mlp import HybridMLP, mlp
from neurocollapse.models.registry import open

__all__ = ["HybridMLP", "ModelError", "init_weights", "initial_weight", "load_weights", "mlp", "open", "read_state"]
