"""A network with quantised weights and activations as a standard ONNX model that runtimes execute in integers.

In the artefact's graph a quantised activation is float arithmetic: x / s, rounded, clipped, times s. Here it becomes
QuantizeLinear and DequantizeLinear, weights become bytes with a DequantizeLinear, biases 32-bit integers: the form
(QDQ) from which ONNX Runtime makes QLinearConv, QGemm, QLinearAdd, and OpenVINO its int8 kernels. The arithmetic is of

Jacob et al. Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference. CVPR 2018.
arXiv:1712.05877, section 2.

Activations are unsigned bytes whose lowest code stands for the grid's lowest value, so that the lower clipping (and a
ReLU before it) costs nothing; a grid of fewer than 256 values has a Clip of the bytes besides. Weights of fewer than
eight bits are bytes too: no runtime convolves in four. Rounding commutes with maxima and changes of shape: it is done
before them as well, so that the convolution before them writes bytes.

The values differ from the float emulation's only in three ways: sums are exact; biases are rounded to the accumulator's
step; so that a value close to halfway between two codes may go to the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from dovetail.runtime.artefact import Artefact
from dovetail.runtime.constants import OpenModel, outlined
from dovetail.runtime.editing import Array, Editor, attribute, per_output
from dovetail.runtime.grids import LEVELS, Choice, Grid, Rounding, find_choices, find_roundings, weight_codes
from dovetail.runtime.session import opened

MOVING = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice")
"""What only chooses among values of its first input: rounding before it and rounding after it are the same."""

LARGEST = 2**31 - 1
"""What an accumulator and a bias can hold."""

SAFE = 63
"""Weight codes up to which two products with unsigned bytes fit in 16 bits."""

INT4 = helper.tensor_dtype_to_np_dtype(TensorProto.INT4)
"""Codes from -8 to 7."""

INT4_OPSET = 21
"""The first ONNX operator set with INT4; what exported networks use means the same as in the one before it."""

FINE = 2.0**24
"""Steps that a bias is given where there is no accumulator to fit."""


def to_qdq(artefact: Artefact) -> tuple[ModelProto, list[str]]:
    """The model that `quantised` gives, in one; and the names."""
    model, names = quantised(artefact)
    return model.whole(), names


def quantised(artefact: Artefact) -> tuple[OpenModel, list[str]]:
    """The model, and the names of the weights that are integers in it: those of convolutions and linear layers whose
    values lie on a grid of at most 8 bits for each output, and whose input is on one of at most 8 bits.

    All else is as `assemble` gives it; without any such weight so is the whole.
    """
    model = opened(artefact)
    rewriter = _Rewriter(Editor(model), artefact)
    rewriter.editor.fold_numbers()
    rewriter.pools(_ranks(model))
    alike: dict[tuple[str, str], list[Rounding]] = {}
    for rounding in find_roundings(rewriter.editor):
        alike.setdefault((rounding.first.input[0], repr(rounding.grid)), []).append(rounding)
    for roundings in alike.values():  # in the graph's order
        rewriter.activation(roundings)
    for choice in find_choices(rewriter.editor):
        rewriter.choice(choice)
    names = [name for node in rewriter.editor.nodes if (name := rewriter.layer(node)) is not None]
    if not names:
        return opened(artefact), []
    rewriter.editor.finish()
    if any(model.constants.dtype(name) == INT4 for name in model.constants):
        for entry in model.proto.opset_import:
            if not entry.domain:
                entry.version = max(entry.version, INT4_OPSET)
    return model, names


def _ranks(model: OpenModel) -> dict[str, int]:
    """The number of dimensions of each value for which it can be told."""
    inferred = onnx.shape_inference.infer_shapes(outlined(model.proto, model.constants)).graph
    return {value.name: len(value.type.tensor_type.shape.dim) for value in (*inferred.value_info, *inferred.input)}


@dataclass
class _Rewriter:
    editor: Editor
    artefact: Artefact
    grids: dict[str, Grid] = field(default_factory=dict)
    """The grid of each value that a DequantizeLinear gives."""

    def pools(self, ranks: dict[str, int]) -> None:
        """Means over pictures become global pools, for which runtimes have integer kernels."""
        for node in self.editor.nodes:
            if node.op_type == "ReduceMean" and len(node.input) == 2 and ranks.get(node.input[0]) == 4:
                axes = self.editor.constants.get(node.input[1])
                spatial = axes is not None and sorted(int(axis) % 4 for axis in axes.reshape(-1)) == [2, 3]
                if spatial and attribute(node, "keepdims", 1):
                    node.op_type = "GlobalAveragePool"
                    node.ClearField("attribute")
                    self.editor.feed(node, node.input[:1])

    def activation(self, roundings: list[Rounding]) -> None:
        """Put a value through bytes, once for all `roundings` of it, which are alike.

        It is done where the value is made, and again after everything that only moves it.
        """
        source = roundings[0].first.input[0]
        if self.is_on(source, roundings[0].grid):
            for rounding in roundings:
                self.held(self.editor.replace(rounding.result, source), self.grids[source])
            return
        alone = len(self.editor.readers(source)) == len(roundings) and source not in self.editor.ends
        value, grid = self.on_grid(source, roundings[0].grid, alone)
        for rounding in roundings:
            self.held(self.editor.replace(rounding.result, value), grid)

    def is_on(self, value: str, grid: Grid) -> bool:
        """Whether rounding a value to the grid changes nothing."""
        own = self.grids.get(value)
        return own is not None and own.scale == grid.scale and grid.lowest <= own.lowest and own.highest <= grid.highest

    def on_grid(self, source: str, grid: Grid, alone: bool) -> tuple[str, Grid]:
        """The name of `source` put through bytes, where it is made and after what moves it; and what it can reach.

        alone: whether nothing else reads `source`.
        """
        maker = self.editor.producer(source)
        if alone and maker is not None and (_moves(maker) or maker.op_type == "Concat"):
            places = range(1 if _moves(maker) else len(maker.input))
            parts = [
                self.on_grid(maker.input[place], grid, self.editor.only_reader(maker.input[place]) is not None)
                for place in places
            ]
            self.editor.feed(maker, [*(name for name, _ in parts), *maker.input[len(parts) :]])
            grids = [part for _, part in parts]
            grid = Grid(grid.scale, min(part.lowest for part in grids), max(part.highest for part in grids))
        elif maker is not None and maker.op_type == "Relu":
            grid = grid.above_zero()
        return self.through_bytes(source, grid), grid

    def choice(self, choice: Choice) -> None:
        """Let signed bytes be chosen in place of two numbers."""
        editor, node = self.editor, choice.node
        codes = [editor.constant(np.asarray(code, np.int8), f"{choice.result}_choice") for code in choice.codes]
        code = editor.add("Where", [node.input[0], *codes], f"{choice.result}_code")
        scale = editor.constant(np.asarray(choice.grid.scale, np.float32), f"{choice.result}_scale")
        zero = editor.constant(np.asarray(0, np.int8), f"{choice.result}_zero")
        value = editor.add("DequantizeLinear", [code, scale, zero], f"{choice.result}_value")
        self.held(editor.replace(choice.result, value), choice.grid)

    def held(self, value: str, grid: Grid) -> None:
        """Note that a value is on a grid, and follow it."""
        self.grids[value] = grid
        for reader in self.editor.readers(value):
            self.follow(reader, grid)

    def follow(self, node: NodeProto, grid: Grid) -> None:
        """What only moves bytes gives bytes, and a ReLU that changes nothing is left out."""
        if node.op_type == "Relu" and grid.lowest == 0 and node.output[0] not in self.editor.ends:
            self.held(self.editor.replace(node.output[0], node.input[0]), grid)
            return
        if node.input[0] not in self.grids or not (_moves(node) or self.pads_with_zero(node)):
            return
        readers = self.editor.readers(node.output[0])
        if node.output[0] in self.editor.ends or any(reader.op_type == "QuantizeLinear" for reader in readers):
            return
        self.editor.redirect(node.output[0], self.through_bytes(node.output[0], grid), readers)
        for reader in readers:
            self.follow(reader, grid)

    def pads_with_zero(self, node: NodeProto) -> bool:
        if node.op_type != "Pad" or attribute(node, "mode", b"constant") != b"constant":
            return False
        return len(node.input) < 3 or not node.input[2] or self.editor.scalar(node.input[2]) == 0

    def through_bytes(self, source: str, grid: Grid) -> str:
        """The name of `source` on the grid."""
        editor, top = self.editor, grid.highest - grid.lowest
        scale = editor.constant(np.asarray(grid.scale, np.float32), f"{source}_scale")
        zero = editor.constant(np.asarray(-grid.lowest, np.uint8), f"{source}_zero")
        code = editor.add("QuantizeLinear", [source, scale, zero], f"{source}_code")
        if top < LEVELS - 1:
            bound = editor.constant(np.asarray(top, np.uint8), f"{source}_top")
            code = editor.add("Clip", [code, "", bound], f"{source}_clipped")
        value = editor.add("DequantizeLinear", [code, scale, zero], f"{source}_quantised")
        self.grids[value] = grid
        return value

    def layer(self, node: NodeProto) -> str | None:
        """Make the weight and bias of a convolution or linear layer integers; the weight's name, None if it cannot be.

        A factor and a shift for each output (a batch normalisation's) become part of the scales and the bias.
        """
        if node.op_type == "MatMul":
            return self.matrix(node)
        if not _is_layer(node) or node.input[0] not in self.grids or node.input[1] not in self.artefact.tensors:
            return None
        name = str(node.input[1])
        coded = weight_codes(self.artefact.tensors[name])
        if coded is None or (bias := self.bias(node, len(coded[0]))) is None:
            return None
        codes, scale = coded
        end, factor, shift = self.tail(node, codes)
        integers = _integers(codes, scale * factor, bias * factor + shift, float(self.grids[node.input[0]].scale))
        if integers is None:
            return None
        codes8, scales, bias32, steps = integers
        inputs = [node.input[0], self.integer_constant(codes8, scales, name)]
        if np.any(bias32):
            inputs.append(self.integer_constant(bias32, steps, name.removesuffix("weight") + "bias"))
        self.editor.feed(node, [*inputs, *node.input[len(inputs) :]])
        if end != node.output[0]:
            self.editor.replace(end, node.output[0])
        return name

    def matrix(self, node: NodeProto) -> str | None:
        """The same of a linear layer on sequences: a product by a transposed weight, whose bias is added afterwards."""
        turned = self.editor.producer(node.input[1])
        if turned is None or turned.op_type != "Transpose" or list(attribute(turned, "perm", [1, 0])) != [1, 0]:
            return None
        name = str(turned.input[0])
        if node.input[0] not in self.grids or name not in self.artefact.tensors:
            return None
        coded = weight_codes(self.artefact.tensors[name])
        if coded is None or coded[0].ndim != 2:
            return None
        codes, scale = coded
        integers = _integers(codes, scale, np.zeros(len(codes)), float(self.grids[node.input[0]].scale))
        if integers is None:
            return None
        weight = self.integer_constant(np.ascontiguousarray(integers[0].T), integers[1], name, axis=1)
        self.editor.feed(node, [node.input[0], weight])
        return name

    def bias(self, node: NodeProto, outputs: int) -> NDArray[np.float64] | None:
        """The layer's bias, zeros if it has none; None if it is computed, or of another shape."""
        if len(node.input) < 3 or not node.input[2]:
            return np.zeros(outputs)
        constant = self.editor.constants.get(node.input[2])
        return None if constant is None else per_output(constant, outputs, 0)

    def tail(self, node: NodeProto, codes: NDArray[np.int16]) -> tuple[str, NDArray[np.float64], NDArray[np.float64]]:
        """The value after the factors and shifts that follow a layer, and their sum: value = factor * layer + shift."""
        outputs, places = len(codes), codes.ndim - 2
        end, factor, shift = node.output[0], np.ones(outputs), np.zeros(outputs)
        while (reader := self.editor.only_reader(end)) is not None and reader.op_type in ("Mul", "Add"):
            other = reader.input[1] if reader.input[0] == end else reader.input[0]
            constant = per_output(self.editor.constants.get(other), outputs, places)
            if constant is None:
                break
            factor, shift = (
                (factor * constant, shift * constant) if reader.op_type == "Mul" else (factor, shift + constant)
            )
            end = reader.output[0]
        return end, factor, shift

    def codes(self, codes: Array, name: str) -> str:
        """The name of codes, which are stored in four bits where those hold them, or them over a power of two."""
        editor, used = self.editor, int(np.bitwise_or.reduce(codes, axis=None))
        factor = max(used & -used, 1)  # what codes of few bits were spread by, at least
        if codes.dtype != np.int8 or codes.min() < -8 * factor or codes.max() > 7 * factor:
            return editor.constant(codes, f"{name}_code")
        code = editor.constant((codes // factor).astype(INT4), f"{name}_code")
        if factor > 1:
            wide = editor.add("Cast", [code], f"{name}_wide", to=TensorProto.INT32)
            factors = editor.constant(np.asarray(factor, np.int32), f"{name}_factor")
            code = editor.add("Mul", [wide, factors], f"{name}_spread")
        return editor.add("Cast", [code], f"{name}_byte", to=TensorProto.INT8)

    def integer_constant(self, codes: Array, scales: NDArray[np.float32], name: str, axis: int = 0) -> str:
        """The name of codes times scales, one for each index along the axis; one for all if they are alike."""
        alike = bool(np.all(scales == scales[0]))
        code = self.codes(codes, name)
        scale = self.editor.constant(scales[0] if alike else scales, f"{name}_scale")
        zeros = np.zeros((), codes.dtype) if alike else np.zeros(len(scales), codes.dtype)
        inputs = [code, scale, self.editor.constant(zeros, f"{name}_zero")]
        return self.editor.add("DequantizeLinear", inputs, f"{name}_value", **({} if alike else {"axis": axis}))


def _moves(node: NodeProto) -> bool:
    return node.op_type in MOVING and len(node.output) == 1


def _is_layer(node: NodeProto) -> bool:
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    return node.op_type == "Conv" or (
        node.op_type == "Gemm"
        and attribute(node, "transB", 0) == 1
        and all(attribute(node, name, default) == default for name, default in plain.items())
    )


def _integers(
    codes: NDArray[np.int16], scale: NDArray[np.float64], bias: NDArray[np.float64], input_scale: float
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]] | None:
    """Weights as bytes with positive scales, and the bias in steps of the accumulator, with these steps.

    None if they do not fit in 8 and 32 bits.
    """
    shape = (-1, *[1] * (codes.ndim - 1))
    most = np.abs(codes.reshape(len(codes), -1)).max(1) * (scale != 0)
    # Codes of few bits are spread over seven, so that the bias is rounded more finely. Eight would do as well, but then
    # sums of two products saturate on x86 processors without VNNI.
    spread = 2 ** max(int(np.log2(SAFE / max(int(most.max()), 1))), 0)
    scale = scale / spread
    # An output whose weights are all zero may have any scale: one that its bias fits.
    live = (most > 0) & (np.abs(scale) * input_scale > np.finfo(np.float32).tiny)
    spare = np.where(bias == 0, 1.0, np.abs(bias) / (FINE * input_scale))
    scales = np.where(live, np.abs(scale), spare).astype(np.float32)
    steps = scales * np.float32(input_scale)
    biases = np.rint(bias / steps.astype(np.float64))
    signed = codes * (spread * live * np.sign(scale)).astype(codes.dtype).reshape(shape)
    if signed.max() > 127 or np.abs(biases).max() > LARGEST:
        return None
    return signed.astype(np.int8), scales, biases.astype(np.int32), steps
