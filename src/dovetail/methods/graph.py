"""The network's graph as torch.fx sees it: what follows a layer, and which modules are called at all."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from dovetail.errors import ModelError

RELU_FUNCTIONS = (functional.relu, torch.relu, torch.relu_)


class _Tracer(fx.Tracer):
    """Does not look into layers, constrained ones included. Notes the node that each call of a module gives."""

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, list[fx.Node | None]] = {}

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        value = super().call_module(m, forward, args, kwargs)
        self.given.setdefault(self.path_of_module(m), []).append(value.node if isinstance(value, fx.Proxy) else None)
        return value

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = m.__module__.startswith("torch.nn") and not isinstance(m, nn.Sequential)
        return own or getattr(m, "is_leaf", False)


def symbolic(model: nn.Module) -> fx.GraphModule:
    """The graph of `model`; its modules are those of `model`, not copies.

    Raises:
        ModelError: the forward pass depends on values, so that it has no fixed graph.
    """
    return model if isinstance(model, fx.GraphModule) else _traced(model)[0]


def returned(model: nn.Module) -> tuple[fx.GraphModule, dict[str, fx.Node]]:
    """The graph of `model`, and the node of what each module gives that is called exactly once, layer or not, by path.

    Raises:
        ModelError: as `symbolic`.
    """
    if isinstance(model, fx.GraphModule):
        return model, called_once(model)
    network, given = _traced(model)
    return network, {path: nodes[0] for path, nodes in given.items() if len(nodes) == 1 and nodes[0] is not None}


def _traced(model: nn.Module) -> tuple[fx.GraphModule, dict[str, list[fx.Node | None]]]:
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"the network's graph cannot be read ({reason}); export it to ONNX and compress the .onnx file"
        ) from error
    return fx.GraphModule(tracer.root, graph), tracer.given


def called_once(network: fx.GraphModule) -> dict[str, fx.Node]:
    """The call of each module that is called exactly once, by its path."""
    calls: dict[str, list[fx.Node]] = {}
    for node in network.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    return {path: nodes[0] for path, nodes in calls.items() if len(nodes) == 1}


def give_to(network: fx.GraphModule, node: fx.Node, path: str, module: nn.Module) -> None:
    """Let a new module at `path` take the place of `node`, and read what that reads first. Then `recompile`."""
    network.add_submodule(path, module)
    with network.graph.inserting_before(node):
        new = network.graph.call_module(path, (node.args[0],))
    node.replace_all_uses_with(new)
    network.graph.erase_node(node)


def only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def is_norm(node: fx.Node, modules: dict[str, Any]) -> bool:
    if node.op != "call_module":
        return False
    module = modules[str(node.target)]
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return isinstance(module, kinds) and module.track_running_stats


def is_relu(node: fx.Node, modules: dict[str, Any]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], nn.ReLU)
    if node.op == "call_method":
        return node.target in ("relu", "relu_")
    return node.op == "call_function" and node.target in RELU_FUNCTIONS
