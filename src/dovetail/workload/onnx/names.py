"""From the names in an ONNX file to paths of torch modules and parameters."""

from __future__ import annotations

import re

from dovetail.workload.onnx.graph import Node

WEIGHT = re.compile(r"(?P<path>.+?)[._](weight|kernel|w_0|W)$")


def as_path(name: str) -> str:
    """A name with "." between its levels, each of them a word: "/layer1/conv:0" -> "layer1.conv_0"."""
    levels = [re.sub(r"\W+", "_", level).strip("_") for level in re.split(r"[./]+", name.replace("::", "_"))]
    return ".".join(level for level in levels if level) or "unnamed"


def identifier(name: str) -> str:
    """A name for a value in generated code."""
    return re.sub(r"\W+", "_", name).strip("_") or "value"


def layer_paths(node: Node, weight: str) -> list[str]:
    """Where a layer with a weight of this name may be kept, best first.

    By the weight's name ("layer1.0.conv1.weight"), the torch module that the node was exported from, the node's name
    ("/layer1/layer1.0/conv1/Conv", as torch's older exporter writes it), or the weight's whole name.
    """
    match = WEIGHT.match(as_path(re.sub(r":\d+$", "", weight)))
    candidates = [
        match["path"] if match else "",
        as_path(node.scope) if node.scope else "",
        _from_node_name(node.name),
        as_path(weight) if weight else as_path(node.outputs[0]),
    ]
    return [path for path in candidates if path]


def _from_node_name(name: str) -> str:
    """Without levels that the next one repeats ("layer1/layer1.0"), and without a last one that is an operator."""
    levels = [level for level in name.split("/") if level]
    if len(levels) > 1 and levels[-1][:1].isupper():
        levels.pop()
    kept = [
        level for i, level in enumerate(levels) if not (i + 1 < len(levels) and levels[i + 1].startswith(f"{level}."))
    ]
    return as_path("/".join(kept)) if kept else ""
