"""Which rule each kind of module, function and method has, by its type or name."""

from __future__ import annotations

from torch import nn

from dovetail.methods.channels.attention import Attention
from dovetail.methods.channels.route import Route
from dovetail.methods.channels.rules import (
    CONVOLUTIONS,
    TRANSPOSED,
    Rule,
    attention,
    convolution,
    elementwise,
    embedding,
    follow,
    function_normalise,
    linear,
    matmul,
    module_axis,
    normalise,
    pad,
    reduction,
    route,
    scaled_dot_product,
    window,
)

NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)

PASSES = frozenset({
    "contiguous", "clone", "detach", "to", "float", "half", "double", "type", "type_as", "dropout", "alpha_dropout",
    "feature_alpha_dropout", "move.identity", "elementwise.cast", "elementwise.cast_like",
})  # fmt: skip

MOVES = frozenset({
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis",
    "t", "squeeze", "unsqueeze", "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "getitem", "narrow",
    "select", "index_select", "cat", "concat", "concatenate", "stack", "hstack", "roll", "flip", "repeat", "expand",
    "expand_as", "view_as", "reshape_as", "tile", "repeat_interleave", "pixel_shuffle", "pixel_unshuffle",
    "channel_shuffle", "native_channel_shuffle", "ravel",
    "move.reshape", "move.flatten", "move.squeeze", "move.unsqueeze", "move.transpose", "move.concat", "move.split",
    "move.slice_", "move.gather", "move.expand", "move.tile", "move.depth_to_space", "move.space_to_depth",
})  # fmt: skip

MOVING_MODULES = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle)

ELEMENTWISE = frozenset({
    "add", "iadd", "radd", "sub", "isub", "rsub", "subtract", "mul", "imul", "rmul", "multiply", "truediv",
    "itruediv", "rtruediv", "div", "divide", "pow", "ipow", "maximum", "minimum", "where", "masked_fill", "clamp",
    "clip", "clamp_min", "clamp_max", "neg", "abs", "sqrt", "rsqrt", "square", "exp", "log", "log1p", "expm1", "sin",
    "cos", "tanh", "sigmoid", "erf", "reciprocal", "sign", "round", "floor", "ceil", "relu", "relu6", "gelu", "silu",
    "mish", "elu", "celu", "selu", "leaky_relu", "softplus", "softsign", "hardtanh", "hardswish", "hardsigmoid",
    "hardshrink", "softshrink", "tanhshrink", "logsigmoid", "threshold", "rrelu", "lerp", "addcmul", "nan_to_num",
})  # fmt: skip

WINDOWS = tuple(
    f"{prefix}{kind}{rank}d" for prefix in ("", "adaptive_") for kind in ("max_pool", "avg_pool") for rank in (1, 2, 3)
)


def _functions() -> dict[str, Rule]:
    table: dict[str, Rule] = {name: elementwise for name in ELEMENTWISE}
    for name in ("divide", "power", "modulo", "clip", "where", "leaky_relu", "prelu", "elu", "celu", "selu", "gelu",
                 "hard_sigmoid", "swish", "thresholded_relu", "shrink", "mean", "variadic_maximum", "variadic_minimum",
                 "variadic_add"):  # fmt: skip
        table[f"elementwise.{name}"] = elementwise
    for name in (*WINDOWS, "interpolate", "upsample", "dropout2d", "dropout3d", "feature_dropout", "lp_pool2d",
                 "window.max_pool", "window.average_pool", "window.lp_pool", "window.global_average_pool",
                 "window.global_max_pool", "window.global_lp_pool", "window.pad_window", "resize.resize",
                 "resize.upsample"):  # fmt: skip
        table[name] = window
    for name in ("mean", "sum", "amax", "amin", "softmax", "log_softmax", "var", "std", "logsumexp", "prod"):
        table[name] = reduction()
    for name in ("mean", "total", "amax", "amin", "product", "root_total", "logsumexp"):
        table[f"reduce.reduce_{name}"] = reduction("axes")
    for name in ("softmax", "log_softmax", "hardmax"):
        table[f"elementwise.{name}"] = reduction("axis", -1)
    for name in ("batch_norm", "instance_norm", "normalise.batch_normalization", "normalise.instance_normalization"):
        table[name] = function_normalise
    return table | {
        "matmul": matmul, "bmm": matmul, "scaled_dot_product_attention": scaled_dot_product,
        "normalise.attention": scaled_dot_product, "pad": pad, "move.pad": pad,
    }  # fmt: skip


FUNCTIONS = _functions()

ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
    nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.Hardshrink, nn.Softshrink, nn.Tanhshrink,
    nn.LogSigmoid, nn.Threshold, nn.RReLU, nn.Identity, nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip

WINDOW_MODULES = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.LPPool1d, nn.LPPool2d, nn.Upsample, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.ZeroPad1d, nn.ZeroPad2d,
    nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d, nn.ReplicationPad1d,
    nn.ReplicationPad2d, nn.ReplicationPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d,
)  # fmt: skip

MODULES: tuple[tuple[tuple[type[nn.Module], ...], Rule], ...] = (
    (CONVOLUTIONS + TRANSPOSED, convolution),
    ((nn.Linear,), linear),
    ((nn.Embedding,), embedding),
    ((Route,), route),
    (NORMS, follow),
    ((nn.PReLU,), follow),
    ((nn.LayerNorm, nn.GroupNorm), normalise),
    ((nn.MultiheadAttention, Attention), attention),
    ((nn.Softmax, nn.LogSoftmax, nn.Softmax2d), module_axis),
    (WINDOW_MODULES, window),
    (ACTIVATIONS, lambda walk, n, value: walk.source(n)),
)
"""The rule of each kind of module; the first that fits."""
