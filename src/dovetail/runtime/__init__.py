"""The artefact file, and what runs it. Reading and running needs no PyTorch; making an artefact does."""

import importlib
from typing import TYPE_CHECKING

from dovetail.runtime.artefact import Artefact
from dovetail.runtime.engine import EngineSession
from dovetail.runtime.engine.plan_file import export_plan
from dovetail.runtime.export import export_onnx
from dovetail.runtime.loading import load, standard_model
from dovetail.runtime.qdq import to_qdq
from dovetail.runtime.session import Session, assemble

if TYPE_CHECKING:
    from dovetail.runtime.freezing import freeze
    from dovetail.runtime.module import to_torch

__all__ = [
    "Artefact",
    "EngineSession",
    "Session",
    "assemble",
    "export_onnx",
    "export_plan",
    "freeze",
    "load",
    "standard_model",
    "to_qdq",
    "to_torch",
]

_NEEDS_TORCH = {"freeze": "dovetail.runtime.freezing", "to_torch": "dovetail.runtime.module"}


def __getattr__(name: str) -> object:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module 'dovetail.runtime' has no attribute '{name}'")
    value = getattr(importlib.import_module(_NEEDS_TORCH[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
