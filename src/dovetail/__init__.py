"""Dovetail cuts a neural network and the chip it runs on to fit each other.

What most people need is here by name, and imported when it is first used: `import dovetail` costs nothing, and reading
or running an artefact never needs PyTorch.
"""

import importlib
import importlib.metadata
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dovetail.compression import Compressed, compress, plans
    from dovetail.data import DATASETS, load_dataset
    from dovetail.evaluate import Record, evaluate
    from dovetail.formats import FORMATS, Layout
    from dovetail.methods import METHODS
    from dovetail.methods.constraint import bake, layouts
    from dovetail.networks import NETWORKS, load_model
    from dovetail.recipe import Recipe, builtin_recipes
    from dovetail.report import inspect_table, profile_tables, summary_table, write_report
    from dovetail.runtime import Artefact, Session, export_onnx, load
    from dovetail.runtime.freeze import freeze
    from dovetail.runtime.module import to_torch
    from dovetail.targets import TARGETS, load_target
    from dovetail.train import Training, score, train
    from dovetail.workload.trace import trace

__version__ = importlib.metadata.version("dovetail")

_ROOMS = {
    "compression": ["Compressed", "compress", "plans"],
    "data": ["DATASETS", "load_dataset"],
    "evaluate": ["Record", "evaluate"],
    "formats": ["FORMATS", "Layout"],
    "methods": ["METHODS"],
    "methods.constraint": ["bake", "layouts"],
    "networks": ["NETWORKS", "load_model"],
    "recipe": ["Recipe", "builtin_recipes"],
    "report": ["inspect_table", "profile_tables", "summary_table", "write_report"],
    "runtime": ["Artefact", "Session", "export_onnx", "freeze", "load", "to_torch"],
    "targets": ["TARGETS", "load_target"],
    "train": ["Training", "score", "train"],
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
    "bake",
    "builtin_recipes",
    "compress",
    "evaluate",
    "export_onnx",
    "freeze",
    "inspect_table",
    "layouts",
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
    "train",
    "write_report",
]


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        # Importing the room `evaluate` or `train` would bind its module here, over the function of the same name.
        if not (name in _ROOM_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> object:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'dovetail' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"dovetail.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return ["__version__", *__all__]
