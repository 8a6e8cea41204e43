"""Reading an ONNX file as a torch module that can be compressed, trained and exported again.

Why not the library onnx2torch: it imports torchvision, which has no place beside the CPU build of torch, and it names
modules after nodes, while we keep every tensor under its ONNX name.
"""

from __future__ import annotations

import os

from onnx import ModelProto
from torch import fx

from dovetail.errors import ModelError
from dovetail.workload.onnx.build import build, check_supported
from dovetail.workload.onnx.graph import load_graph
from dovetail.workload.onnx.quantised import integers
from dovetail.workload.onnx.rewrite import (
    drop_identities,
    drop_unused,
    find_linear,
    fold_constants,
    free_batch,
    name_types,
)

OnnxSource = str | os.PathLike[str] | ModelProto


def read_onnx(source: OnnxSource) -> fx.GraphModule:
    """The network of an ONNX file (opset 9 or newer), or of a model in memory, in evaluation mode.

    Convolutions, products with a constant matrix and batch normalisations are torch modules, other floating-point
    tensors parameters; all the rest is plain functions. A tensor called "layer1.0.conv1.weight" in the file has this
    name in the state_dict too. Where the file's name cannot be kept (a layer's weight that is called otherwise),
    `module.meta["initialisers"]` maps the name in the state_dict to the one in the file. Of a quantised network (QDQ)
    the numbers are those that are computed with, and `module.meta["integers"]` has the bits of weights, and of what
    they multiply, by the weight's name; a trace counts with these. The matrix of an nn.Linear is
    (out, in), whichever way the file has it.

    The module takes the file's inputs in their order and returns its output, or a tuple where there are several.

    Raises ModelError for a file that is missing, damaged or no ONNX model, and, naming them all, for operators that
    cannot be read.
    """
    try:
        return _read(source)
    except ModelError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        label = "The ONNX model" if isinstance(source, ModelProto) else f"The ONNX file {source}"
        raise ModelError(f"{label} is not a sound model ({error!r}); export it again") from error


def _read(source: OnnxSource) -> fx.GraphModule:
    graph = drop_unused(load_graph(source))
    check_supported(graph)
    widths = integers(graph)
    graph = name_types(graph)
    graph = drop_identities(graph)
    graph = fold_constants(graph)
    graph = drop_identities(graph)  # those of branches that have been decided
    graph = free_batch(graph)
    graph = find_linear(graph)
    module = build(graph)
    named = module.meta["initialisers"] | module.meta["constants"]
    held = {path: widths[name] for path, name in named.items() if name in widths}
    weights = {path: bits for path, (bits, _) in held.items()}
    module.meta["integers"] = weights, {path: bits for path, (_, bits) in held.items() if bits is not None}
    return module
