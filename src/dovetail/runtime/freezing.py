"""From a torch module to an artefact: fold the batch normalisations, take the graph, store every tensor as laid out."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn
from torch.onnx.errors import OnnxExporterError

from dovetail.errors import FormatError, ModelError
from dovetail.formats import Dense, Float, Format, Json, Layout, ValueEncoder
from dovetail.methods import constraint
from dovetail.methods.quantize.quantizer import Quantizer, input_quantizers
from dovetail.runtime.affine import fold_batch_norms
from dovetail.runtime.artefact import Artefact
from dovetail.runtime.graph import compact
from dovetail.runtime.session import Session

SMALL_CONSTANT = 16
"""Elements up to which a buffer stays in the graph, exact, as constants in the module's code do."""

TOLERANCE = 1e-3
"""By how much, of the largest output, or of the norm of all, two runtimes may differ."""

ROUNDING = 2.0**-17
"""Errors of sums in float32, with room, as parts of the largest value: 64 units in the last place."""

TRIALS = 3
"""How often such errors are tried out on a network with quantised activations."""

_LOGGERS = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")


def freeze(
    model: nn.Module,
    example: Tensor,
    *,
    layouts: Mapping[str, Layout] | None = None,
    remaining: str = "float32",
    provenance: Mapping[str, Json] | None = None,
) -> Artefact:
    """The network as it is at inference, as an artefact.

    model: a module from one tensor to one tensor, with the constraints that methods put on it; it is left alone.
    example: an input (N, ...), N at least 1. The artefact takes any N, in float32; or in int64 if the example is of
        whole numbers, such as the indices that an embedding takes.
    layouts: how to store the tensors named (names of the state_dict), over what their constraints say; all other
        floating-point tensors are stored as `remaining` ("float32", "float16" or "bfloat16"). A tensor that the output
        does not depend on is left out.

    Every batch normalisation becomes its per-channel `scale` and `shift`. Raises ModelError, in one sentence, for a
    network that cannot be exported or does not compute the same after it, and for a layout of a tensor that it has not.
    """
    chosen = {**constraint.layouts(model), **(layouts or {})}
    plain = _plain_copy(model, example)
    exported, weights = _export(plain, example)
    sources = _named_tensors(plain)
    plans = _plans(plain, chosen, weights, partial(Float.encode, dtype=remaining))
    tensors = {name: _encode(name, sources[name], plans[name]) for name in weights}
    read: dict[str, Json] = {path: {"bits": quantizer.bits} for path, quantizer in input_quantizers(plain).items()}
    artefact = Artefact(compact(exported, set(weights)), tensors, dict(provenance or {}), read)
    restored = Artefact.from_bytes(artefact.to_bytes())
    _check_tensors(restored, tensors)
    _check_outputs(restored, plain, example)
    return artefact


def _plain_copy(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy in eval mode, float32, on the CPU, with folded batch normalisations."""
    if example.ndim < 1 or not len(example):
        raise ModelError(f"The example should be a batch of at least one input, got shape {tuple(example.shape)}.")
    plain = constraint.bake(model).cpu().float().eval()
    for tensor in plain.parameters():
        tensor.requires_grad_(False)
    return fold_batch_norms(plain, lambda: _run(plain, _batch(example, 1)))


def _batch(example: Tensor, count: int) -> Tensor:
    """`count` inputs, the example's over and over: float32, or int64 where they are whole numbers."""
    kind = torch.float32 if example.is_floating_point() else torch.int64
    return example.detach().cpu().to(kind)[torch.arange(count) % len(example)]


def _run(model: nn.Module, batch: Tensor) -> Tensor:
    """The module's output. Raises ModelError if it has none of this batch, or not one tensor."""
    try:
        with torch.no_grad():
            output = model(batch)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        reason = _one_line(error)
        raise ModelError(f"The network cannot be run on an input of shape {tuple(batch.shape)}: {reason}.") from None
    if not isinstance(output, Tensor):
        raise ModelError(
            f"A network whose output is one tensor is expected, this one's is a {type(output).__name__}; wrap it in a "
            "module that gives one."
        )
    return output


def _named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer; a tensor that is shared comes under each of its names."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def _export(model: nn.Module, example: Tensor) -> tuple[ModelProto, list[str]]:
    """The ONNX model, and the names of the tensors in it that are stored apart, in the order of first use.

    While the exporter simplifies the graph these are inputs without a value, so that it can neither fold nor reshape
    them.
    """
    batch = torch.export.Dim("batch")
    with _silence(), _responses_as_one_node(model):
        try:
            program = torch.onnx.export(
                model,
                (_batch(example, 2),),
                dynamo=True,
                dynamic_shapes=({0: batch},),
                optimize=False,
                verbose=False,
            )
        except OnnxExporterError as error:
            raise ModelError(f"The network cannot be exported to ONNX: {_cause(error)}.") from None
        assert program is not None
        graph = program.model.graph
        weights = {name for name, tensor in _named_tensors(model).items() if _is_stored(tensor)} & set(
            graph.initializers
        )
        for name in sorted(weights):
            value = graph.initializers.pop(name)
            value.const_value = None
            graph.inputs.append(value)
        program.optimize()
        proto = program.model_proto
    read = dict.fromkeys(name for node in proto.graph.node for name in node.input)
    return proto, [name for name in read if name in weights]


def _is_stored(tensor: Tensor) -> bool:
    """Whether it is a tensor of its own in the file: floating-point, and a parameter or more than a small constant."""
    return tensor.is_floating_point() and (isinstance(tensor, nn.Parameter) or tensor.numel() > SMALL_CONSTANT)


def _plans(
    model: nn.Module, layouts: Mapping[str, Layout], weights: list[str], remaining: ValueEncoder
) -> dict[str, Layout]:
    """The layout of each weight; a layout given under another name of a shared tensor counts."""
    tensors = _named_tensors(model)
    for name in layouts:
        if name not in tensors:
            raise ModelError(f"A layout is given for {name!r}, but the network at inference has no such tensor.")
    by_tensor = {id(tensors[name]): layout for name, layout in layouts.items()}
    return {name: by_tensor.get(id(tensors[name]), Layout(values=remaining)) for name in weights}


def _encode(name: str, tensor: Tensor, layout: Layout) -> Format:
    source = np.asarray(tensor.detach().numpy(), order="C")
    try:
        encoded = layout.encode(source)
        rounded = Dense.encode(source, layout.values).decode()
    except FormatError as error:
        raise ModelError(f"Tensor {name!r} cannot be stored: {error}.") from None
    decoded = encoded.decode()
    if not np.all((decoded == source) | (decoded == rounded)):
        raise ModelError(f"Tensor {name!r} is not what its layout ({encoded.describe()}) gives back; report this.")
    return encoded


def _check_tensors(restored: Artefact, tensors: Mapping[str, Format]) -> None:
    """The file gives back every tensor bit for bit."""
    for name, tensor in tensors.items():
        again: NDArray[np.float32] = restored.tensors[name].decode()
        if again.tobytes() != tensor.decode().tobytes():
            raise ModelError(f"Tensor {name!r} changes when it is written and read ({tensor.describe()}); report this.")


def _check_outputs(artefact: Artefact, model: nn.Module, example: Tensor) -> None:
    """The artefact computes what the module with the same (stored) weights computes, for other batch sizes too."""
    sources = _named_tensors(model)
    for name, tensor in artefact.tensors.items():
        sources[name].copy_(torch.from_numpy(tensor.decode().copy()))
    session = Session(artefact, threads=1)
    for count in (1, 3):
        batch = _batch(example, count)
        expected = _run(model, batch).numpy()
        found = session(batch.numpy())
        if found.shape != expected.shape or not _agree(found, expected, model, batch):
            raise ModelError(
                f"The exported network does not compute what the module computes on a batch of {count}; its forward "
                "should depend neither on chance nor on the batch's size."
            )


def _agree(found: NDArray[np.float32], expected: NDArray[np.float32], model: nn.Module, batch: Tensor) -> bool:
    """Within a thousandth, everywhere. Where activations are quantised, a value halfway between two codes goes to
    either, and what follows moves by whole codes: then as a whole, and twice as far as rounding errors are seen to move
    the outputs."""
    scale = float(np.abs(expected).max(initial=0))
    if np.allclose(found, expected, TOLERANCE, TOLERANCE * scale, equal_nan=True):
        return True
    quantizers = [module for module in model.modules() if isinstance(module, Quantizer)]
    if not quantizers:
        return False
    moved = max(np.linalg.norm(_run_with_errors(model, quantizers, batch, seed) - expected) for seed in range(TRIALS))
    return bool(np.linalg.norm(found - expected) <= TOLERANCE * np.linalg.norm(expected) + 2 * moved)


def _run_with_errors(
    model: nn.Module, quantizers: Iterable[nn.Module], batch: Tensor, seed: int
) -> NDArray[np.float32]:
    """The outputs, if what each quantiser reads has errors of rounding."""
    generator = torch.Generator().manual_seed(seed)

    def disturb(quantizer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        return (x + ROUNDING * x.abs().max() * (2 * torch.rand(x.shape, generator=generator) - 1), *inputs[1:])

    handles = [quantizer.register_forward_pre_hook(disturb) for quantizer in quantizers]
    try:
        return _run(model, batch).numpy()
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _responses_as_one_node(model: nn.Module) -> Iterator[None]:
    """Local response normalisation as ONNX's LRN, which the exporter would write as eight nodes."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.LocalResponseNorm) and layer.size % 2]
    for layer in layers:  # of an even window ONNX has the middle elsewhere
        layer.forward = partial(_local_response, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _local_response(layer: nn.LocalResponseNorm, x: Tensor) -> Tensor:
    if x.ndim != 4:  # runtimes have it for pictures only
        return nn.LocalResponseNorm.forward(layer, x)
    settings: dict[str, Any] = {"size": layer.size, "alpha": layer.alpha, "beta": layer.beta, "bias": layer.k}
    return torch.onnx.ops.symbolic("LRN", [x], settings, dtype=x.dtype, shape=x.shape)


@contextmanager
def _silence() -> Iterator[None]:
    """No prints, log lines or warnings about the exporter's own inner workings; its errors are raised all the same."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _cause(error: BaseException) -> str:
    """What the exporter's error goes back to, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return _one_line(error)


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".:")
