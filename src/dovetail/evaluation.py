"""One Record: what one evaluation of an artefact found, each number with how it was obtained.

Accuracy comes from the decoded weights, run by the session that users run; bytes are those of the file; costs come from
targets. Reports and searches read Records and nothing else.
"""

from __future__ import annotations

import math
import shlex
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from dovetail.compression import Preview
from dovetail.data import Dataset
from dovetail.data.dataset import SplitName
from dovetail.errors import DovetailError, MissingPackageError, ModelError, TargetError
from dovetail.formats import Format
from dovetail.methods import METHODS
from dovetail.methods.method import Kind, Plan, weight_tensors
from dovetail.methods.output_errors import MEASURES
from dovetail.recipe import builtin_recipes
from dovetail.runtime import Artefact, Session, freeze, to_torch
from dovetail.targets import Cost, Target, Timing, load_target, module_latency
from dovetail.train import score
from dovetail.workload import trace

RECORD_VERSION = 1
COST_BATCH = 32

PREVIEW_TIMING = Timing(warm_up=5, runs=50, seconds=0.3)

DENSE_RUNTIMES = ("torch", "onnxruntime", "openvino")
"""Targets that multiply by zeros."""

FASTER = 1.1
"""How many times less a latency must be to be called less: layers of the same work differ by as much."""


@dataclass(frozen=True)
class TensorRecord:
    """How one tensor is stored."""

    name: str
    shape: tuple[int, ...]
    format: str
    elements: int
    bits: int
    bits_by_part: dict[str, int]
    density: float

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per element of the decoded tensor."""
        return self.bits / self.elements if self.elements else 0.0


@dataclass(frozen=True)
class HistoryRecord:
    """The network after one round of its recipe: its metric on held-out data, and its size if it were stored then.

    `kept` is False if the round lost too much and was undone.
    """

    step: str
    accuracy: float | None
    bytes: int
    kept: bool = True


@dataclass(frozen=True)
class SensitivityRecord:
    """What it cost to treat one layer alone, as measured when the step was planned, before any retraining.

    `measure` is "loss_rise", by how much the loss rises, or "output_error", the squared error of the network's outputs
    relative to these.
    """

    step: str
    layer: str
    measure: str
    value: float


@dataclass(frozen=True)
class Work:
    """What a network computes for one input: multiply-accumulates, and how many of them have a weight that is not 0."""

    macs: int
    nonzero_macs: int
    parameters: int
    """Elements of all stored floating-point tensors."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one evaluation found. Accuracies are fractions, measured on the first `images` images of `split`.

    `work` is None where the network has an operator that cannot be counted. `speed` says in words whether runtimes
    that know nothing of zeros are faster for the compression, and why. On `synthetic` data an accuracy says only how
    close the outputs are to the original's.
    """

    name: str
    dataset: str
    split: str
    images: int
    metric: str
    accuracy: float
    original_accuracy: float | None
    original_bytes: int
    original_bytes_source: str
    file_bytes: int
    bytes_by_part: dict[str, int]
    tensors: tuple[TensorRecord, ...]
    costs: tuple[Cost, ...]
    original_costs: tuple[Cost, ...]
    history: tuple[HistoryRecord, ...]
    provenance: dict[str, Any]
    commands: tuple[str, ...]
    sensitivities: tuple[SensitivityRecord, ...] = ()
    work: Work | None = None
    original_work: Work | None = None
    speed: str = ""
    synthetic: bool = False
    version: int = field(default=RECORD_VERSION)

    @property
    def ratio(self) -> float:
        """How many times smaller the file is than the original's parameters in float32."""
        return self.original_bytes / self.file_bytes

    def to_json(self) -> bytes:
        """This record as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2)

    @classmethod
    def from_json(cls, text: bytes | str) -> Record:
        """The record that `to_json` wrote.

        Raises:
            DovetailError: it is no record, or one of another version.
        """
        try:
            version = msgspec.json.decode(text, type=_Versioned).version
            if version != RECORD_VERSION:
                raise DovetailError(f"This record has version {version}, this program reads version {RECORD_VERSION}")
            return msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError as error:
            raise DovetailError(f"This is not a record that `dovetail evaluate` wrote: {error}") from error


@dataclass(frozen=True)
class _Versioned:
    version: int


def evaluate(
    artefact: Artefact,
    dataset: Dataset,
    targets: Sequence[Target | str],
    *,
    original: nn.Module | None = None,
    plans: Sequence[tuple[str, Plan]] = (),
    split: SplitName = "test",
    limit: int | None = None,
    progress: Callable[[str], None] | None = None,
    refused: Callable[[str], None] | None = None,
) -> Record:
    """Measure an artefact, and beside it the network it was made from.

    Args:
        targets: where to cost both, names or targets with settings of their own; they get one batch of real images.
        original: the uncompressed network; it is scored and costed in the same run. None leaves it out.
        plans: the steps that made it, by name, with their plans, for what each layer alone cost.
        limit: how many images of `split` to use, None for all.
        progress: told what is done next, in a few words.
        refused: told of a target that cannot cost one of them and why, in a sentence; it is left out then.

    Raises:
        DataError: the data set does not fit the network.
        TargetError, MissingPackageError: a target cannot cost the network, and `refused` is None.
    """
    tell = progress or (lambda _: None)
    places = [load_target(target) if isinstance(target, str) else target for target in targets]
    session = Session(artefact)
    tell(f"accuracy of the artefact on {dataset.name}")
    accuracy = score(
        lambda inputs: torch.from_numpy(session(inputs.numpy())), dataset, split, limit=limit, original=original
    )
    batch = next(iter(dataset.batches(split, dataset.fitting(COST_BATCH), limit=limit)))[0]

    networks = [(artefact, "the artefact")]
    original_accuracy: float | None = None
    original_work: Work | None = None
    if original is not None:
        tell("accuracy of the original")
        original_accuracy = score(original, dataset, split, limit=limit, original=original)
        networks.append((freeze(original, batch), "the original"))
        original_work = work(networks[1][0], batch)
    costs: list[list[Cost]] = []
    for target in places:
        try:
            costs.append([_cost(target, network, batch, whose, tell) for network, whose in networks])
        except (TargetError, MissingPackageError) as error:
            if refused is None:
                raise
            refused(f"{target.name} is left out: {error}")
    found, originals = (tuple(each[n] for each in costs if n < len(each)) for n in range(2))

    original_bytes, source = _float32_bytes(artefact, original)
    provenance = dict(artefact.provenance)
    images = len(dataset.split(split))
    return Record(
        name=str(provenance.get("model") or "network"),
        dataset=dataset.name,
        split=split,
        images=images if limit is None else min(limit, images),
        metric=dataset.task.metric,
        accuracy=accuracy,
        original_accuracy=original_accuracy,
        original_bytes=original_bytes,
        original_bytes_source=source,
        file_bytes=sum(artefact.parts().values()),
        bytes_by_part=_bytes_by_part(artefact),
        tensors=tuple(_tensor_record(name, tensor) for name, tensor in artefact.tensors.items()),
        costs=found,
        original_costs=originals,
        history=_history(provenance, original_bytes),
        sensitivities=tuple(_sensitivities(plans)),
        provenance=provenance,
        commands=_commands(provenance, dataset, places),
        work=work(artefact, batch),
        original_work=original_work,
        speed=in_words(
            _kinds(provenance),
            {cost.target: times for cost in found if (times := _times(cost, originals))},
            rounding=bool(artefact.activations),
        ),
        synthetic=dataset.synthetic,
    )


def work(artefact: Artefact, inputs: Tensor) -> Work | None:
    """What an artefact computes for one of `inputs` (N, ...); None if an operator of it cannot be counted."""
    try:
        workload = trace(to_torch(artefact), inputs[:1]).with_weights(artefact.tensors)
    except ModelError:
        return None
    return Work(workload.macs, workload.nonzero_macs, sum(_elements(tensor) for tensor in artefact.tensors.values()))


def in_words(
    kinds: Collection[Kind],
    times: Mapping[str, float],
    layers: tuple[int, int] | None = None,
    *,
    rounding: bool = False,
) -> str:
    """Whether dense runtimes are faster for what methods of these kinds did, and why.

    Args:
        times: by target, how many times less one input takes than before.
        layers: how many layers there were and are.
        rounding: whether layers round what they read.
    """
    if not kinds:
        return ""
    zeros = "dense runtimes multiply by the zeros too" if "prune" in kinds else "the weights are decoded to dense ones"
    if rounding:
        return (
            "The file shrinks. In floating point latency rises a little, for layers round what they read; exported "
            "(`dovetail export`), those whose weights and inputs are quantised compute in integers."
        )
    if not {"shrink", "rebuild"} & set(kinds):
        faster = {target: times[target] for target in times if target not in DENSE_RUNTIMES and times[target] >= FASTER}
        if "prune" in kinds and faster:
            return f"Latency falls where zeros are left out (speed-up: {_listed(faster)}); {zeros}. The file shrinks."
        return f"Latency stays: {zeros}. The file shrinks."
    if not times:
        return "Whether latency falls was not looked at."
    found = _listed(times)
    if min(times.values()) >= FASTER:
        return f"Latency falls, for the layers themselves are smaller or fewer; speed-up: {found}."
    more = ""
    if layers is not None and layers[1] > layers[0]:
        more = f", and {layers[1]} layers have more of it than {layers[0]}"
    reason = f"layers this small take their time for being called and for moving data, not for multiplying{more}"
    return f"Latency hardly falls, if at all (speed-up: {found}): {reason}."


def _listed(times: Mapping[str, float]) -> str:
    return ", ".join(f"{factor:.2f} on {target}" for target, factor in times.items())


def expectations(
    original: nn.Module, preview: Preview, inputs: Tensor, targets: Sequence[str] = ("onnxruntime",)
) -> list[str]:
    """What a recipe will come to, in sentences, judged by the network with its plans applied and nothing retrained."""
    networks = [(network, freeze(network, inputs)) for network in (original, preview.model)]
    counted = [work(artefact, inputs) for _, artefact in networks]
    kinds = {method.kind for method, _ in preview.steps}
    words = []
    before, after = counted
    if before is not None and after is not None:
        words.append(
            f"Multiply-accumulates of one input: {before.macs:,} → {after.macs:,} ({after.macs / before.macs:.1%}), "
            f"{after.nonzero_macs:,} of them by weights that are not zero; "
            f"parameters: {before.parameters:,} → {after.parameters:,} ({after.parameters / before.parameters:.1%})."
        )
    times = {}
    for target in targets:
        if {"shrink", "rebuild"} & kinds or ("prune" in kinds and target not in DENSE_RUNTIMES):
            seconds = [module_latency(network, inputs, target, PREVIEW_TIMING) for network, _ in networks]
            times[target] = seconds[0] / seconds[1]
    layers = [len(list(weight_tensors(network))) for network, _ in networks]
    rounding = bool(networks[1][1].activations)
    return [*words, in_words(kinds, times, (layers[0], layers[1]), rounding=rounding)]


def _kinds(provenance: Mapping[str, Any]) -> set[Kind]:
    """What the methods of the rounds that were kept do to a layer."""
    methods = [entry["method"] for entry in provenance.get("history", []) if entry["kept"]]
    return {METHODS[name].kind for name in methods if name in METHODS}


def _times(cost: Cost, originals: Sequence[Cost]) -> float | None:
    """How many times less one input takes than with the original, where both were timed."""
    before = next((other.quantities.get("latency") for other in originals if other.target == cost.target), None)
    after = cost.quantities.get("latency")
    return None if before is None or after is None or not after.value else before.value / after.value


def _cost(target: Target, artefact: Artefact, batch: Tensor, whose: str, tell: Callable[[str], None]) -> Cost:
    tell(f"{target.name}, {whose}")
    return target.cost(artefact, batch.numpy())


def _float32_bytes(artefact: Artefact, original: nn.Module | None) -> tuple[int, str]:
    """Four bytes for every parameter, and whose parameters were counted."""
    if original is not None:
        parameters = sum(parameter.numel() for parameter in original.parameters())
        return 4 * parameters, f"4 bytes for each of the original's {parameters:,} parameters"
    elements = sum(_elements(tensor) for tensor in artefact.tensors.values())
    return 4 * elements, f"4 bytes for each of the {elements:,} elements of the artefact's decoded tensors"


def _elements(tensor: Format) -> int:
    return math.prod(tensor.shape)


def _tensor_record(name: str, tensor: Format) -> TensorRecord:
    return TensorRecord(
        name,
        tensor.shape,
        tensor.describe(),
        _elements(tensor),
        tensor.bits,
        tensor.bits_by_part,
        float(tensor.density),
    )


def _bytes_by_part(artefact: Artefact) -> dict[str, int]:
    """The file's bytes: all tensors together by part of their format, then what else is in the file.

    Parts that share a byte leave it to the padding, so that the sum is exact.
    """
    bits: dict[str, int] = defaultdict(int)
    for tensor in artefact.tensors.values():
        for part, count in tensor.bits_by_part.items():
            bits[part] += count
    whole = {part: count // 8 for part, count in bits.items() if part != "padding"}
    parts = artefact.parts()
    in_tensors = sum(parts[name] for name in artefact.tensors)
    rest = {part: count for part, count in parts.items() if part not in artefact.tensors}
    return whole | {"padding": in_tensors - sum(whole.values())} | rest


def _history(provenance: Mapping[str, Any], original_bytes: int) -> tuple[HistoryRecord, ...]:
    """The original and every round of the recipe; an artefact that no recipe made has no history."""
    rounds = provenance.get("history", [])
    if not rounds:
        return ()
    names = [_round_name(rounds, index) for index in range(len(rounds))]
    return (
        HistoryRecord("original", provenance.get("baseline_score"), original_bytes),
        *(
            HistoryRecord(name, entry["score"], entry["stored_bytes"], entry["kept"])
            for name, entry in zip(names, rounds, strict=True)
        ),
    )


def _sensitivities(plans: Sequence[tuple[str, Plan]]) -> Iterator[SensitivityRecord]:
    for step, plan in plans:
        for layer, row in plan.items():
            for measure in MEASURES:
                if measure in row:
                    yield SensitivityRecord(step, layer, measure, row[measure])


def _round_name(rounds: Sequence[Mapping[str, Any]], index: int) -> str:
    """The method, with the number of the round where its step has several."""
    entry = rounds[index]
    several = sum(other["step"] == entry["step"] for other in rounds) > 1
    return f"{entry['method']} {entry['stage'] + 1}" if several else str(entry["method"])


def _commands(provenance: Mapping[str, Any], dataset: Dataset, targets: Sequence[Target]) -> tuple[str, ...]:
    """The command lines that make the artefact, where it says what it was made from, and this evaluation."""
    commands = []
    if {"model", "recipe", "seed"} <= provenance.keys():
        recipe = str(provenance["recipe"])
        recipe = recipe if recipe in (*builtin_recipes(), *METHODS) else f"{recipe}.toml"
        made = ["dovetail", "compress", provenance["model"], "--recipe", recipe]
        made += [*provenance.get("recipe_changes", [])]
        made += ["--data", provenance.get("dataset", dataset.name), "--seed", provenance["seed"]]
        if provenance.get("max_drop") is not None:
            made += ["--max-drop", provenance["max_drop"], "--judge", provenance["judge"]]
        commands.append(shlex.join([*map(str, made), "--out", "out"]))
    evaluated = ["dovetail", "evaluate", "out/model.dvt", "--data", dataset.name]
    commands.append(shlex.join([*evaluated, *(word for target in targets for word in ("--target", target.name))]))
    return tuple(commands)
