"""Data sets: where they come from, how they are checked, how they become batches."""

from dovetail.data.augment import ShiftAndFlip
from dovetail.data.catalogue import DATASETS, load_dataset
from dovetail.data.dataset import Dataset, Split, TensorSplit
from dovetail.data.image_folder import pictures
from dovetail.data.noise import noise
from dovetail.data.task import Classification, CloseOutputs, MatchOutputs, Task, matching

__all__ = [
    "DATASETS",
    "Classification",
    "CloseOutputs",
    "Dataset",
    "MatchOutputs",
    "ShiftAndFlip",
    "Split",
    "Task",
    "TensorSplit",
    "load_dataset",
    "matching",
    "noise",
    "pictures",
]
