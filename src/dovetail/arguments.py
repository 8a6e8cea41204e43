"""What the arguments of the command line mean: their types, and the network, data and recipe that they ask for."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

import dovetail
from dovetail.errors import DataError, ModelError, RecipeError, TargetError
from dovetail.optional import lazy

if TYPE_CHECKING:
    import torch

    from dovetail.data import Dataset
    from dovetail.networks import LoadedModel
    from dovetail.recipe import Recipe
    from dovetail.workload import Workload
else:
    torch = lazy("torch")

Model = Annotated[str, typer.Argument(help="A built-in network's name, an .onnx file, or module.py:factory.")]
Computed = Annotated[
    str, typer.Argument(help="A built-in network's name, an .onnx file, module.py:factory, or a .dvt file.")
]
ArtefactFile = Annotated[Path, typer.Argument(help="A .dvt file.")]
Weights = Annotated[Path | None, typer.Option(help="Weights: .safetensors, or a state_dict that torch saved.")]
Data = Annotated[str | None, typer.Option(help="A data set's name or a folder of images; else the network's own.")]
Targets = Annotated[
    list[str] | None, typer.Option("--target", help="Where to cost it; may be repeated. Default: all but openvino.")
]
InputShape = Annotated[
    str | None, typer.Option(help="The shape of one input, as 3x64x256, where the file leaves it open.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads; else PyTorch's choice.")]

console = Console(width=None if sys.stdout.isatty() else 160)
"""Where tables go."""
messages = Console(stderr=True)
"""Where notices and progress go."""


def untrained(model: str, weights: Path | None) -> bool:
    """Whether this is a built-in network without weights of its own, and none are given."""
    return weights is None and model in dovetail.NETWORKS and dovetail.NETWORKS[model].weights is None


def budget_of(given: Mapping[str, float | None]) -> tuple[str, float] | None:
    """The one quantity that is given, with its fraction (or mean of bits)."""
    found = [(name, value) for name, value in given.items() if value is not None]
    if len(found) > 1:
        raise RecipeError(f"a budget is one of {', '.join(f'--{n}' for n in given)}, got {len(found)} of them")
    return found[0] if found else None


def recipe_of(
    named: "Recipe | None", budget: tuple[str, float] | None, *, untrained: bool, target: list[str] | None
) -> "Recipe":
    """The recipe named, or one that fits the budget, with the budget in it."""
    steps = named
    if budget is not None:
        quantity, amount = budget
        steps = named or dovetail.fitting_recipe(quantity, retrained=not untrained)
        if quantity == "bits":
            steps = steps.with_bits(amount)
        else:
            steps = steps.with_budget(amount if quantity == "sparsity" else dovetail.Budget(**{quantity: amount}))
        if quantity == "latency":
            if target and not any(map(dovetail.knows_latency, target)):
                known = ", ".join(dovetail.TIMED)
                raise TargetError(f"No target given knows a latency for the budget: name {known} or a chip")
            steps = replace(steps, changes=(*steps.changes, "--target", timed(target)))
    assert steps is not None
    return steps.without_training() if untrained else steps


def timed(target: list[str] | None) -> str:
    """The target of a budget of latency, and of a plan's: the first named that knows one of any module."""
    return next(filter(dovetail.knows_latency, target or []), dovetail.TIMED[0])


def some_data(network: "LoadedModel", data: str | None, images: str | None) -> "Dataset":
    """The data given, or the network's own, or noise."""
    if images is not None:
        if data is not None:
            raise DataError("--data and --images exclude each other: the former retrains, the latter does not")
        dataset = fitting(images, network)
        return replace(dataset, task=dovetail.matching(_outputs(network, dataset)))
    if data or network.dataset:
        return fitting(data or str(network.dataset), network)
    if network.input_shape is None:
        raise DataError(
            f"{network.name} does not say what data it is for, nor what it takes; name a data set or a folder with "
            "--data, a folder of a few images with --images, or the shape of one input with --input-shape 3x224x224"
        )
    messages.print("No data were given: outputs are compared with the original's on noise, and nothing is retrained.")
    return fitting("noise", network)


def network_and_data(model: str, weights: Path | None, data: str | None) -> tuple["LoadedModel", "Dataset"]:
    """The network and data that fit each other."""
    network = dovetail.load_model(model, weights)
    return network, fitting(data or dataset_of(network.dataset, network.name), network)


def dataset_of(name: Any, whose: str) -> str:
    """The name of the data set that something says it is for; DataError if it says nothing."""
    if not name:
        raise DataError(f"{whose} does not say what data it is for; name a data set or a folder with --data")
    return str(name)


def workload_of(model: str, weights: Path | None, data: str | None, shape: str | None) -> "tuple[Workload, str]":
    """What a network or an artefact computes for one input, and in words how its zeros were found."""
    if model.endswith(".dvt"):
        session = dovetail.Session(dovetail.Artefact.load(model))
        known = tuple(side for side in session.input.one if side is not None)
        own = known if len(known) == len(session.input.one) else None
        inputs = _one_input(model, _sides(shape) or own, data)
        workload = dovetail.artefact_workload(session.artefact, inputs.contiguous().numpy())
    else:
        network = shaped(dovetail.load_model(model, weights), shape)
        if data is None and untrained(model, weights):
            meta = torch.empty(1, *network.input_shape or (), device="meta")
            return dovetail.trace(network.module.to("meta"), meta), "Without weights and data nothing is zero."
        workload = dovetail.trace(network.module, _one_input(model, network.input_shape, data))
    if data is None:
        return workload.with_dense_activations(), "Zeros of weights count; those of activations need --data."
    return workload, f"Zeros of weights count, and those of activations on an image of {data}."


def _one_input(whose: str, shape: tuple[int, ...] | None, data: str | None) -> "torch.Tensor":
    """The data set's first image; without one, something of the right shape."""
    if data is not None:
        return dovetail.load_dataset(data, shape).example()
    if shape is None:
        raise DataError(f"{whose} does not say what input it takes; give --input-shape 3x224x224, or data with --data")
    return torch.zeros(1, *shape)


def shaped(network: "LoadedModel", shape: str | None) -> "LoadedModel":
    """The network, told what one input is like."""
    return network if shape is None else replace(network, input_shape=_sides(shape))


def _sides(shape: str | None) -> tuple[int, ...] | None:
    """ "3x224x224" as numbers."""
    if shape is None:
        return None
    sides = tuple(int(side) for side in shape.split("x") if side.isascii() and side.isdigit())
    if len(sides) != shape.count("x") + 1 or min(sides) < 1:
        raise DataError(f"--input-shape is channels, height and width as in 3x224x224, got {shape!r}")
    return sides


def fitting(data: str, network: "LoadedModel") -> "Dataset":
    """The data set, once the network was seen to run on its first image."""
    dataset = dovetail.load_dataset(data, network.input_shape)
    dovetail.trace(network.module, dataset.example())
    if dataset.task.targets_from_original and not dataset.synthetic:
        dataset = replace(dataset, task=dovetail.matching(_outputs(network, dataset)))
    return dataset


def _outputs(network: "LoadedModel", dataset: "Dataset") -> "torch.Tensor":
    """What the network makes of the first image."""
    with torch.no_grad():
        outputs = network.module(dataset.example())
    if not isinstance(outputs, torch.Tensor):
        raise ModelError(f"{network.name} gives {len(outputs)} outputs; a network that gives one tensor is expected")
    return outputs
