"""Is a network in integers faster? The given ResNet-20 in eight and four bits, exported, in other runtimes.

    python benchmarks/integer_speed.py [CASE ...] [--list]

RECIPE: as the recipe has it. RECIPE/layers: only what layers read is quantised, not the sums of the shortcuts. The
exported file's size, the nodes that ONNX Runtime executes, and in both runtimes its answers (accuracy on the whole test
set) and the time for one picture as the ratio to the float network's in paired runs. Records
results/integer_speed.json. Needs openvino.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto
from onnxruntime import InferenceSession, SessionOptions
from paired import paired
from records import Options, given, run_cases

from dovetail.compression import preview
from dovetail.data import Dataset, load_dataset
from dovetail.methods import Ptq
from dovetail.recipe import Recipe, RecipeStep
from dovetail.runtime import export_onnx, freeze
from dovetail.targets.peers import PEERS, Opening
from dovetail.train import score

BATCH = 100
RESULTS = Path(__file__).parent / "results" / "integer_speed.json"
CASES = [f"{recipe}{part}" for recipe in ("int8", "w4a8") for part in ("/layers", "")]


def run(case: str, options: Options) -> dict[str, Any]:
    original, dataset = given("resnet20"), load_dataset("cifar10")
    recipe, _, part = case.partition("/")
    (step,) = Recipe.load(recipe).steps
    assert isinstance(step.method, Ptq)
    method = replace(step.method, sums=not part)
    model = preview(original, dataset, Recipe(name=case, steps=(RecipeStep(method=method),))).model.eval()
    with tempfile.TemporaryDirectory() as name:
        folder, example = Path(name), dataset.example()
        export_onnx(freeze(original, example), folder / "float.onnx")
        export_onnx(freeze(model, example), folder / "integers.onnx", integers=True)
        models = [onnx.load(folder / f"{kind}.onnx") for kind in ("float", "integers")]
        return {
            "accuracy_original": score(original, dataset),
            "exported_bytes": (folder / "integers.onnx").stat().st_size,
            "exported_bytes_original": (folder / "float.onnx").stat().st_size,
            "executed": executed(folder / "integers.onnx"),
        } | {name: in_runtime(open_in, models, options.threads, dataset) for name, open_in in PEERS.items()}


def in_runtime(open_in: Opening, models: list[ModelProto], threads: int, dataset: Dataset) -> dict[str, Any]:
    """The accuracy of the second model, and its speed beside the first's."""
    image = dataset.example().numpy()
    before, after = (open_in(model, threads, [image.shape]) for model in models)
    many = open_in(models[1], threads, [(BATCH, *image.shape[1:])])
    return {
        "accuracy": score(lambda x: torch.from_numpy(many([x.numpy()])[0].copy()), dataset, batch_size=BATCH),
        "speed": paired(lambda: before([image]), lambda: after([image]), pairs=300),
    }


def executed(path: Path) -> dict[str, int]:
    """How many nodes of each kind are left when ONNX Runtime has fused what it can."""
    options = SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.parent / "fused.onnx")
    InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return dict(Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node).most_common())


if __name__ == "__main__":
    run_cases(RESULTS, __doc__, CASES, run)
