"""Training: a plain loop with distillation, checkpoints and exact reproduction from a seed."""

from dovetail.train.errors import TrainingError
from dovetail.train.loop import EpochResult, train
from dovetail.train.scoring import score
from dovetail.train.state import load_state, save_state
from dovetail.train.training import Training

__all__ = ["EpochResult", "Training", "TrainingError", "load_state", "save_state", "score", "train"]
