"""Dovetail cuts a neural network and the chip it runs on to fit each other.

What most people need is here by name, and imported when it is first used: `import dovetail` costs nothing, and reading
or running an artefact never needs PyTorch.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dovetail.compression import Compressed, compress, plans, preview
    from dovetail.data import DATASETS, load_dataset, matching, pictures
    from dovetail.evaluation import Record, evaluate, expectations
    from dovetail.formats import FORMATS, Layout
    from dovetail.hardware import Chip, ChipRecord, chip_names, simulate
    from dovetail.methods import METHODS
    from dovetail.methods.budget import Budget
    from dovetail.networks import NETWORKS, load_model
    from dovetail.recipe import Recipe, builtin_recipes, fitting_recipe
    from dovetail.report import (
        benchmark_card,
        chip_tables,
        chips_table,
        comparisons_table,
        inspect_table,
        kernels_table,
        outputs_table,
        plan_table,
        predictions_table,
        profile_tables,
        sources_table,
        summary_table,
        write_chip_report,
        write_plan,
        write_report,
    )
    from dovetail.runtime import Artefact, EngineSession, Session, export_onnx, export_plan, load, standard_model
    from dovetail.runtime.freezing import freeze
    from dovetail.runtime.module import to_torch
    from dovetail.targets import (
        TARGETS,
        TIMED,
        USUAL_TARGETS,
        ChipTarget,
        ModuleLatency,
        artefact_workload,
        knows_latency,
        load_peer,
        load_target,
    )
    from dovetail.train import Training, score
    from dovetail.workload.sparsity import sparsity
    from dovetail.workload.trace import trace

__version__ = importlib.metadata.version("dovetail")

_ROOMS = {
    "compression": ["Compressed", "compress", "plans", "preview"],
    "data": ["DATASETS", "load_dataset", "matching", "pictures"],
    "evaluation": ["Record", "evaluate", "expectations"],
    "formats": ["FORMATS", "Layout"],
    "hardware": ["Chip", "ChipRecord", "chip_names", "simulate"],
    "methods": ["METHODS"],
    "methods.budget": ["Budget"],
    "networks": ["NETWORKS", "load_model"],
    "recipe": ["Recipe", "builtin_recipes", "fitting_recipe"],
    "report": [
        *("benchmark_card", "chip_tables", "chips_table", "comparisons_table", "inspect_table", "kernels_table"),
        *("outputs_table", "plan_table", "predictions_table", "profile_tables", "sources_table", "summary_table"),
        *("write_chip_report", "write_plan", "write_report"),
    ],
    "runtime": [
        *("Artefact", "EngineSession", "Session", "export_onnx", "export_plan", "freeze", "load", "standard_model"),
        "to_torch",
    ],
    "targets": [
        *("TARGETS", "TIMED", "USUAL_TARGETS", "ChipTarget", "ModuleLatency", "artefact_workload", "knows_latency"),
        *("load_peer", "load_target"),
    ],
    "train": ["Training", "score"],
    "workload": ["sparsity", "trace"],
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "DATASETS",
    "FORMATS",
    "METHODS",
    "NETWORKS",
    "TARGETS",
    "TIMED",
    "USUAL_TARGETS",
    "Artefact",
    "Budget",
    "Chip",
    "ChipRecord",
    "ChipTarget",
    "Compressed",
    "EngineSession",
    "Layout",
    "ModuleLatency",
    "Recipe",
    "Record",
    "Session",
    "Training",
    "artefact_workload",
    "benchmark_card",
    "builtin_recipes",
    "chip_names",
    "chip_tables",
    "chips_table",
    "comparisons_table",
    "compress",
    "evaluate",
    "expectations",
    "export_onnx",
    "export_plan",
    "fitting_recipe",
    "freeze",
    "inspect_table",
    "kernels_table",
    "knows_latency",
    "load",
    "load_dataset",
    "load_model",
    "load_peer",
    "load_target",
    "matching",
    "outputs_table",
    "pictures",
    "plan_table",
    "plans",
    "predictions_table",
    "preview",
    "profile_tables",
    "score",
    "simulate",
    "sources_table",
    "sparsity",
    "standard_model",
    "summary_table",
    "to_torch",
    "trace",
    "write_chip_report",
    "write_plan",
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
