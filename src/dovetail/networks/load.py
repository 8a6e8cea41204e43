"""Finding a network: a built-in one by name, an ONNX file, or a factory in a user's own Python file."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import pickle
import struct
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import onnx
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from dovetail.errors import ModelError
from dovetail.networks.table import NETWORKS
from dovetail.workload import read_onnx

WEIGHTS = Path(__file__).parent / "weights"
"""The folder of the weights that are shipped in the package."""

NOT_A_STATE_DICT = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError),
    *(AttributeError, AssertionError, struct.error),
)
"""What torch's reader may raise on a file that it did not write."""


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to run: `module` is in eval mode, `input_shape` is (C, H, W) where known."""

    name: str
    module: nn.Module
    input_shape: tuple[int, ...] | None
    dataset: str | None


def load_model(spec: str, weights: str | Path | None = None) -> LoadedModel:
    """The network that `spec` means: a built-in name, `file.onnx`, or `file.py:factory`.

    `weights` is a .safetensors file or a state_dict saved by torch (read with weights_only=True, so that no code runs);
    without it a built-in network takes the weights that are shipped for it, if any, and random ones otherwise.
    `file.py:factory` runs that file and calls `factory()`, which must return a `torch.nn.Module`.

    Raises:
        ModelError: for whatever is wrong with the name, the file, the factory or the weights.
    """
    file, _, factory = spec.rpartition(":")
    if file.endswith(".py"):
        loaded = _from_factory(Path(file), factory)
    elif spec in NETWORKS:
        network = NETWORKS[spec]
        loaded = LoadedModel(spec, network.build(), network.input_shape, network.dataset)
        if weights is None and network.weights is not None:
            weights = WEIGHTS / network.weights
    elif spec.endswith(".onnx"):
        loaded = _from_onnx(Path(spec))
    else:
        raise ModelError(_not_found(spec))
    if weights is not None:
        load_weights(loaded.module, Path(weights))
    loaded.module.eval()
    return loaded


def load_weights(module: nn.Module, path: Path) -> None:
    """Put the tensors of a weights file into `module`, name by name; float16 ones become what the module holds."""
    state = _read_state(path)
    _check_state(module.state_dict(), state, path)
    module.load_state_dict(state)


def _not_found(spec: str) -> str:
    path = Path(spec)
    if path.suffix == ".py":
        return f"{spec} alone does not say which network it means: write {spec}:factory, a function that returns it."
    if path.suffix in (".pt", ".pth", ".bin", ".safetensors", ".pkl"):
        return (
            f"{spec} looks like a file of weights, which does not say what the network computes: name the network "
            "(a built-in name or file.py:factory) and give this file as its weights."
        )
    if path.suffix or "/" in spec:
        return f"'{spec}' is no network: expected a built-in name, file.onnx or file.py:factory."
    close = difflib.get_close_matches(spec.lower().replace("-", "_"), NETWORKS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"the built-in ones are {', '.join(NETWORKS)}."
    return f"There is no network '{spec}': expected a built-in name, file.onnx or file.py:factory; {hint}"


def _from_onnx(path: Path) -> LoadedModel:
    module = read_onnx(path)
    graph = onnx.load(path, load_external_data=False).graph
    constants = {initializer.name for initializer in graph.initializer}
    inputs = [entry.type.tensor_type.shape for entry in graph.input if entry.name not in constants]
    return LoadedModel(path.stem, module, _without_batch(inputs[0]) if len(inputs) == 1 else None, None)


def _without_batch(shape: onnx.TensorShapeProto) -> tuple[int, ...] | None:
    """The extents after the first; None if there are none or one of them is open."""
    extents = tuple(dimension.dim_value for dimension in shape.dim[1:])
    return extents if extents and min(extents) > 0 else None


def _from_factory(path: Path, factory: str) -> LoadedModel:
    build = getattr(_run_file(path), factory, None)
    if not callable(build):
        raise ModelError(f"{path} has no function '{factory}'; give the name of one that returns a torch.nn.Module.")
    try:
        inspect.signature(build).bind()
    except TypeError as error:
        raise ModelError(f"{factory} in {path} must be callable without arguments, but it has a {error}.") from error
    try:
        module = build()
    except Exception as error:  # whatever the user's own code raises
        raise ModelError(f"{factory}() in {path} failed: {_told(error)}") from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"{factory}() in {path} must return a torch.nn.Module, but returned {type(module).__name__}.")
    return LoadedModel(factory, module, None, None)


def _run_file(path: Path) -> ModuleType:
    """Run a user's Python file, which may import files beside it."""
    if not path.is_file():
        raise ModelError(f"There is no file {path}.")
    specification = importlib.util.spec_from_file_location(f"dovetail_user_{path.stem}", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up there
    try:
        with _importable(path.resolve().parent):
            specification.loader.exec_module(module)
    except Exception as error:  # whatever the user's own code raises
        raise ModelError(f"{path} cannot be run: {_told(error)}") from error
    return module


def _told(error: Exception) -> str:
    """An error of a user's own code, and where it was raised."""
    if isinstance(error, SyntaxError):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"There is no weights file {path}.")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise ModelError(f"{path} is not a readable safetensors file ({error}).") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except NOT_A_STATE_DICT as error:
        raise ModelError(f"{path} is neither .safetensors nor a state_dict that torch can load safely.") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} must hold a state_dict (tensors by name), but holds a {type(state).__name__}.")
    return dict(state)


def _check_state(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    """Name the first keys that differ. BatchNorm's counter of batches has no part in the result and may be missing."""
    missing = [name for name in expected if name not in found and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in found if name not in expected]
    differing = [
        f"{name} is {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    problems = [
        f"{what} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape:", differing))
        if names
    ]
    if problems:
        raise ModelError(f"The weights in {path} do not fit the network: {'; '.join(problems)}.")
