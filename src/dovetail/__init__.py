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
    from dovetail.data import DATASETS, load_dataset
    from dovetail.evaluate import Record, evaluate
    from dovetail.formats import FORMATS, Layout
    from dovetail.methods import METHODS
    from dovetail.networks import NETWORKS, load_model
    from dovetail.recipe import RECIPES, Recipe, compress
    from dovetail.report import write_report
    from dovetail.runtime import Artefact, Session, export_onnx, freeze, load, to_torch
    from dovetail.targets import TARGETS
    from dovetail.workload import trace

__version__ = importlib.metadata.version("dovetail")

__all__ = [
    "DATASETS",
    "FORMATS",
    "METHODS",
    "NETWORKS",
    "RECIPES",
    "TARGETS",
    "Artefact",
    "Layout",
    "Recipe",
    "Record",
    "Session",
    "compress",
    "evaluate",
    "export_onnx",
    "freeze",
    "load",
    "load_dataset",
    "load_model",
    "to_torch",
    "trace",
    "write_report",
]

_ROOM_OF = {
    "DATASETS": "data",
    "load_dataset": "data",
    "Record": "evaluate",
    "evaluate": "evaluate",
    "FORMATS": "formats",
    "Layout": "formats",
    "METHODS": "methods",
    "NETWORKS": "networks",
    "load_model": "networks",
    "RECIPES": "recipe",
    "Recipe": "recipe",
    "compress": "recipe",
    "write_report": "report",
    "Artefact": "runtime",
    "Session": "runtime",
    "export_onnx": "runtime",
    "freeze": "runtime",
    "load": "runtime",
    "to_torch": "runtime",
    "TARGETS": "targets",
    "trace": "workload",
}


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        # Importing the room `evaluate` would bind its module here, over the function of the same name.
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
