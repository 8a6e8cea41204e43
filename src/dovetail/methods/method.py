"""What every compression method is: a frozen dataclass that plans from measurements, then applies its plan."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from dovetail.errors import ModelError, RecipeError
from dovetail.workload.trace import trace

Plan = dict[str, dict[str, Any]]
"""What a method will do to each weight, by the weight's name; JSON-able, so that it can be shown and replayed."""


Kind = Literal["shrink", "rebuild", "prune", "share", "code"]
"""What a method does to a layer: takes its channels or all of it away, puts other layers in its place, sets weights to
zero, restricts the weights' values, or codes them for storage. Steps of a recipe go in this order
(`recipe.check_chain`)."""

KINDS: tuple[Kind, ...] = ("shrink", "rebuild", "prune", "share", "code")


SCAN_MACS = 2e13
"""Multiply-accumulates that all probes of a scan may take together: minutes on one core."""


@dataclass(frozen=True)
class Context:
    """What a method may measure and use while it plans and applies. Labels are not in it, but in the losses."""

    loss: Callable[[nn.Module], float]
    """Mean loss of a model on held-out data."""

    example: Tensor
    """One input (1, ...), for tracing; never for statistics."""

    probe: Callable[[nn.Module], float] | None = None
    """The same on fewer images, for scans of many settings; None where there are no data (then measure weights)."""

    probe_images: int = 0
    """How many images that is."""

    inputs: Tensor | None = None
    """Unlabelled inputs (N, ...) for statistics and reconstruction; None where there are no data."""

    original: nn.Module | None = None
    """The network before the first step, in eval mode: the target of reconstruction."""

    latency: Callable[[nn.Module, Tensor], float] | None = None
    """Seconds that a module takes on one input, on the target that a budget of latency names."""

    expect: Callable[[int], None] = lambda losses: None
    """To be told how many losses are going to be measured, or a few more, by who knows it: shown as progress."""

    rebuilding: bool = False
    """Whether only the structure matters, because the values of all tensors will be loaded afterwards."""

    def seconds(self, module: nn.Module, example: Tensor) -> float:
        """What `latency` says. Raises RecipeError where there is none."""
        if self.latency is None:
            raise RecipeError("a budget of latency needs the target it is measured on: give one with --target")
        return self.latency(module, example)

    def cost(self, model: nn.Module, quantity: str) -> float:
        """What a whole network costs of a budget's quantity: "macs", "params" or "latency"."""
        if quantity == "macs":
            return float(trace(model, self.example[:1]).macs)
        if quantity == "params":
            return float(sum(parameter.numel() for parameter in model.parameters()))
        return self.seconds(model, self.example)

    def probes(self, model: nn.Module, scanned: int) -> int:
        """How many settings of each of so many layers or groups a scan can afford to probe; one at least."""
        each = trace(model, self.example[:1]).macs * max(1, self.probe_images) * max(1, scanned)
        return max(1, int(SCAN_MACS / max(1, each)))


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """One published method; its fields are its configuration, checked on construction.

    A method works in rounds (`stages`), each followed by retraining. Its plan is made once and covers them all. What
    can only be decided on the model as trained so far, such as which channels go, `refine` adds to the plan just
    before the round. Replaying `apply` with the same plan rebuilds the same structure, so a run can be resumed.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]

    retrains: ClassVar[bool] = True
    """Whether retraining follows by default, as fits the method's kind."""

    pace: ClassVar[float] = 1.0
    """What multiple of the usual learning rate suits the method's retraining: little where networks are thrown off."""

    layers: tuple[str, ...] = ("*",)
    """Glob patterns of the paths of the modules whose weight is taken, such as "fc*" or "layer1.*"."""

    @property
    def stages(self) -> int:
        """How many rounds there are."""
        return 1

    @property
    def separable(self) -> bool:
        """Whether each row of a plan can be carried out without the others, to see what that layer alone costs."""
        return self.kind == "share"

    @abstractmethod
    def plan(self, model: nn.Module, context: Context) -> Plan:
        """Decide from measurements on `model`, which is left as it was."""

    def refine(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> Plan:
        """The plan with what round `stage` needs decided on `model` as it is now, which is left as it was."""
        return plan

    @abstractmethod
    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        """Carry out round `stage`, counted from 0, on `model`; returns it, or what takes its place."""

    def chosen(self, paths: Sequence[str]) -> list[str]:
        """Those of `paths` that match `layers`.

        Raises:
            ModelError: none does.
        """
        found = [path for path in paths if any(fnmatchcase(path, pattern) for pattern in self.layers)]
        if not paths:
            raise ModelError(f"{self.name}: no layer matches {list(self.layers)}: there is none that it could take")
        if not found:
            near = nearest(self.layers[0], paths)
            hint = f"the nearest are {near}" if near else f"the layers it could take are {list(paths)}"
            raise ModelError(f"{self.name}: no layer matches {list(self.layers)}; {hint}")
        return found

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The effective weights this method takes, by name.

        Raises:
            ModelError: no layer matches.
        """
        held = tied(model) if self.kind == "prune" else set()
        tensors = {path: weight for path, weight in weight_tensors(model) if path not in held}
        return {weight_name(path): tensors[path] for path in self.chosen(list(tensors))}


def weight_name(path: str) -> str:
    """The name, in the state_dict, of the weight of the layer at `path`."""
    return f"{path}.weight" if path else "weight"


def layer_path(name: str) -> str:
    """The path of the layer that the tensor called `name` belongs to."""
    return name.rpartition(".")[0]


def weight_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Path and weight of every module that multiplies by a weight of two dimensions or more."""
    for path, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim >= 2 and weight.is_floating_point():
            yield path, weight.detach()


def tied(model: nn.Module) -> set[str]:
    """The paths of modules that share a parameter: what changes one of them alone would store it twice."""
    holders: dict[int, set[str]] = defaultdict(set)
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            holders[id(parameter)].add(path.partition("parametrizations.")[0].rstrip("."))
    return {path for paths in holders.values() if len(paths) > 1 for path in paths}


def nearest(pattern: str, paths: Sequence[str]) -> list[str]:
    """Up to three paths that are, or begin, much like what the pattern says."""

    def likeness(path: str) -> float:
        beginnings = (path[:end] for end in (*(i for i, c in enumerate(path) if c == "."), len(path)))
        return max(difflib.SequenceMatcher(None, wanted, beginning).ratio() for beginning in beginnings)

    wanted = pattern.rstrip("*.")
    found = sorted(((likeness(path), path) for path in paths), key=lambda pair: -pair[0])
    return [path for ratio, path in found[:3] if ratio >= 0.5]


def check(holds: bool, method: str, field: str, expected: str, found: object) -> None:
    """Raise a RecipeError about a field's value unless `holds`."""
    if not holds:
        raise RecipeError(f"{method}.{field} must be {expected}, got {found!r}")
