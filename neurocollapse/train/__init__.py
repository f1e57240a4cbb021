"""Training: one loop with named events, its settings, its evaluation and its checkpoints."""

from neurocollapse.train.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from neurocollapse.train.evaluate import Evaluation, evaluate
from neurocollapse.train.events import Progress
from neurocollapse.train.loop import History, fit
from neurocollapse.train.settings import TrainingError

__all__ = [
    "Checkpoint",
    "Evaluation",
    "History",
    "Progress",
    "TrainingError",
    "evaluate",
    "fit",
    "load_checkpoint",
    "save_checkpoint",
]
