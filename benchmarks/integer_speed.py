"""Is a network in integers faster? The given ResNet-20 in eight and four bits, exported, in ONNX Runtime.

    python benchmarks/integer_speed.py [CASE ...] [--list]

RECIPE: as the recipe has it. RECIPE/layers: only what layers read is quantised, not the sums of the shortcuts. The
exported file's answers (accuracy on the whole test set), size, the nodes that ONNX Runtime executes, and time for one
picture as the ratio to the float network's in paired runs. Records results/integer_speed.json.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime import InferenceSession, SessionOptions
from paired import paired
from records import Options, given, run_cases

from dovetail.compression import preview
from dovetail.data import load_dataset
from dovetail.methods import Ptq
from dovetail.recipe import Recipe, RecipeStep
from dovetail.runtime import export_onnx, freeze
from dovetail.train import score

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
        before, after = (running(folder / f"{kind}.onnx", options.threads) for kind in ("float", "integers"))
        executed = Counter(node.op_type for node in onnx.load(folder / "fused.onnx").graph.node)
        image = example.numpy()
        return {
            "accuracy": score(lambda x: torch.from_numpy(after(x.numpy())), dataset),
            "accuracy_original": score(original, dataset),
            "exported_bytes": (folder / "integers.onnx").stat().st_size,
            "exported_bytes_original": (folder / "float.onnx").stat().st_size,
            "executed": dict(executed.most_common()),
            "speed": paired(lambda: before(image), lambda: after(image), pairs=300),
        }


def running(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    options = SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.optimized_model_filepath = str(path.parent / "fused.onnx")
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


if __name__ == "__main__":
    run_cases(RESULTS, __doc__, CASES, run)
