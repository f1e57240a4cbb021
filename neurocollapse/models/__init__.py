"""Models to train and to open: the hybrid multilayer perceptron, its initialisations, and the user's own by name."""

from neurocollapse.models.initialise import init_weights, initial_weight
from neurocollapse.models.mlp import HybridMLP, mlp

__all__ = ["HybridMLP", "init_weights", "initial_weight", "mlp"]
