"""Dovetail cuts a neural network and the chip it runs on to fit each other.

What most people need is here by name, and imported when it is first used: `import dovetail` costs nothing, and reading
or running an artefact never needs PyTorch.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dovetail.compression import Compressed, compress, plans
    from dovetail.data import DATASETS, load_dataset
    from dovetail.evaluation import Record, evaluate
    from dovetail.formats import FORMATS, Layout
    from dovetail.methods import METHODS
    from dovetail.networks import NETWORKS, load_model
    from dovetail.recipe import Recipe, builtin_recipes
    from dovetail.report import inspect_table, profile_tables, summary_table, write_report
    from dovetail.runtime import Artefact, Session, export_onnx, load
    from dovetail.runtime.freezing import freeze
    from dovetail.runtime.module import to_torch
    from dovetail.targets import TARGETS, load_target
    from dovetail.train import Training, score
    from dovetail.workload.trace import trace

__version__ = importlib.metadata.version("dovetail")

_ROOMS = {
    "compression": ["Compressed", "compress", "plans"],
    "data": ["DATASETS", "load_dataset"],
    "evaluation": ["Record", "evaluate"],
    "formats": ["FORMATS", "Layout"],
    "methods": ["METHODS"],
    "networks": ["NETWORKS", "load_model"],
    "recipe": ["Recipe", "builtin_recipes"],
    "report": ["inspect_table", "profile_tables", "summary_table", "write_report"],
    "runtime": ["Artefact", "Session", "export_onnx", "freeze", "load", "to_torch"],
    "targets": ["TARGETS", "load_target"],
    "train": ["Training", "score"],
    "workload": ["trace"],
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "DATASETS",
    "FORMATS",
    "METHODS",
    "NETWORKS",
    "TARGETS",
    "Artefact",
    "Compressed",
    "Layout",
    "Recipe",
    "Record",
    "Session",
    "Training",
    "builtin_recipes",
    "compress",
    "evaluate",
    "export_onnx",
    "freeze",
    "inspect_table",
    "load",
    "load_dataset",
    "load_model",
    "load_target",
    "plans",
    "profile_tables",
    "score",
    "summary_table",
    "to_torch",
    "trace",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'dovetail' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"dovetail.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return ["__version__", *__all__]
