"""The peers of benchmarks/lowbit.py: each quantises the given ResNet-20 after training, on the images our rows see.

They are not dependencies of dovetail: install them beside it, in an environment of their own:

    pip install nncf==3.4.0 openvino torchao==0.18.0 && pip install --no-deps brevitas==0.13.4 dependencies==2.0.1
    unfoldNd accelerate

ONNX Runtime's static quantisation comes with it, and needs onnx. Brevitas is run as its own example of post-training
quantisation runs it: equalisation, weights by least squares, its rounding by responses, bias correction. It cannot
follow the option-A shortcut (slice and pad) where sums are quantised too; the shortcuts are rewritten there.
"""

from __future__ import annotations

import copy
import importlib
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from onnxruntime import InferenceSession
from structure_peers import with_convolution_shortcuts
from torch import nn

from dovetail.data import Dataset
from dovetail.planning import planning_context
from dovetail.runtime import export_onnx, freeze
from dovetail.train import score

BATCH = 100


def images_of(original: nn.Module, dataset: Dataset) -> torch.Tensor:
    inputs = planning_context(dataset, original).inputs
    assert inputs is not None
    return inputs


def nncf_ptq(original: nn.Module, dataset: Dataset) -> dict[str, Any]:
    """Eight bits."""
    nncf = importlib.import_module("nncf")
    images = [image[None] for image in images_of(original, dataset)]
    model = nncf.quantize(original, nncf.Dataset(images), subset_size=len(images))
    return {"accuracy": score(model.eval(), dataset)}


def onnxruntime_static(original: nn.Module, dataset: Dataset) -> dict[str, Any]:
    """Eight bits, per channel, min-max."""
    quantization = importlib.import_module("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as folder:
        path, quantised = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        export_onnx(freeze(original, dataset.example()), path)
        name = InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs()[0].name
        images = [{name: image[None].numpy()} for image in images_of(original, dataset)]

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
            def get_next(self) -> dict[str, Any] | None:
                return images.pop() if images else None

        quantization.quantize_static(path, quantised, Reader(), per_channel=True)
        session = InferenceSession(quantised, providers=["CPUExecutionProvider"])
        accuracy = score(lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0]), dataset)
        return {"accuracy": accuracy, "file_bytes": quantised.stat().st_size}


def torchao_pt2e(original: nn.Module, dataset: Dataset, weight_bits: int) -> dict[str, Any]:
    """Its quantiser for x86, histograms for what layers read in 8 bits, min-max for the weights of each output."""
    prefix = "torchao.quantization.pt2e"
    flow = importlib.import_module(f"{prefix}.quantize_pt2e")
    x86 = importlib.import_module(f"{prefix}.quantizer.x86_inductor_quantizer")
    config = x86.get_default_x86_inductor_quantization_config()
    highest = (1 << (weight_bits - 1)) - 1
    weight = replace(config.weight, quant_min=-highest - 1, quant_max=highest)
    quantizer = x86.X86InductorQuantizer().set_global(replace(config, weight=weight))
    images = images_of(original, dataset)
    shapes = ({0: torch.export.Dim("images", min=2)},)
    exported = torch.export.export(original, (images[:BATCH],), dynamic_shapes=shapes).module()
    prepared = flow.prepare_pt2e(exported, quantizer)
    for batch in images.split(BATCH):
        prepared(batch)
    converted = flow.convert_pt2e(prepared)
    return {"accuracy": score(lambda inputs: converted(inputs), dataset)}


def brevitas_ptq(
    original: nn.Module, dataset: Dataset, weight_bits: int, activation_bits: int, *, sums: bool, rounding: str
) -> dict[str, Any]:
    """As many bits in the first and last layer as in the others, as in our rows.

    sums: whether the sums of the shortcuts are quantised too. rounding: the function that rounds by responses, or "".
    """
    common = importlib.import_module("brevitas_examples.imagenet_classification.ptq.ptq_common")
    preprocess = importlib.import_module("brevitas.graph.quantize").preprocess_for_quantize
    model = copy.deepcopy(original)
    model = preprocess(
        with_convolution_shortcuts(model) if sums else model, equalize_iters=20, equalize_merge_bias=True
    )
    quantised = common.quantize_model(
        model, "fx" if sums else "layerwise", weight_bits, activation_bits, 32 if sums else None, "per_channel",
        99.999, "sym" if sums else "asym", "float_scale", "int", layerwise_first_last_bit_width=weight_bits,
        weight_narrow_range=True, weight_param_method="mse", act_param_method="mse",
    ).eval()  # fmt: skip
    loader = [(batch, None) for batch in images_of(original, dataset).split(BATCH)]
    with torch.no_grad():
        quantised(loader[0][0])
    common.calibrate(loader, quantised)
    if rounding:
        getattr(common, rounding)(model=quantised, calib_loader=loader, act_order=True)
    common.apply_bias_correction(loader, quantised)
    return {"accuracy": score(quantised, dataset)}


PEERS: dict[str, Callable[[nn.Module, Dataset], dict[str, Any]]] = {
    "nncf int8": nncf_ptq,
    "onnxruntime int8": onnxruntime_static,
    "torchao int8": partial(torchao_pt2e, weight_bits=8),
    "torchao w4a8": partial(torchao_pt2e, weight_bits=4),
    "brevitas int8": partial(brevitas_ptq, weight_bits=8, activation_bits=8, sums=True, rounding=""),
    "brevitas w4a8": partial(brevitas_ptq, weight_bits=4, activation_bits=8, sums=True, rounding="apply_qronos"),
    "brevitas w4a4": partial(brevitas_ptq, weight_bits=4, activation_bits=4, sums=False, rounding="apply_qronos"),
}
