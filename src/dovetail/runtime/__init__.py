"""The artefact file, and what runs it. Reading and running needs no PyTorch; making an artefact does."""

import importlib
from typing import TYPE_CHECKING

from dovetail.runtime.artefact import Artefact
from dovetail.runtime.export import export_onnx
from dovetail.runtime.qdq import to_qdq
from dovetail.runtime.session import Session, assemble, load

if TYPE_CHECKING:
    from dovetail.runtime.freezing import freeze
    from dovetail.runtime.module import to_torch

__all__ = ["Artefact", "Session", "assemble", "export_onnx", "freeze", "load", "to_qdq", "to_torch"]

_NEEDS_TORCH = {"freeze": "dovetail.runtime.freezing", "to_torch": "dovetail.runtime.module"}


def __getattr__(name: str) -> object:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module 'dovetail.runtime' has no attribute '{name}'")
    value = getattr(importlib.import_module(_NEEDS_TORCH[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
