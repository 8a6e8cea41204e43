"""Finding a network: a built-in one by name, an ONNX file, or a factory in a user's own Python file."""

from __future__ import annotations

import difflib
import importlib.util
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from dovetail.errors import ModelError
from dovetail.networks.table import NETWORKS

WEIGHTS = Path(__file__).parent / "weights"
"""The folder of the weights that are shipped in the package."""


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to run: `module` is in eval mode, `input_shape` is (C, H, W) where known."""

    name: str
    module: nn.Module
    input_shape: tuple[int, ...] | None
    dataset: str | None


def load_model(spec: str, weights: Path | None = None) -> LoadedModel:
    """The network that `spec` means: a built-in name, `file.onnx`, or `file.py:factory`.

    `weights` is a .safetensors file or a state_dict saved by torch (read with weights_only=True, so that no code runs);
    without it a built-in network takes the weights that are shipped for it, if any, and random ones otherwise.
    `file.py:factory` runs that file and calls `factory()`, which must return a `torch.nn.Module`.

    Raises:
        ModelError: for whatever is wrong with the name, the file, the factory or the weights.
    """
    path, _, factory = spec.rpartition(":")
    if path.endswith(".py"):
        loaded = _from_factory(Path(path), factory)
    else:
        loaded = _builtin(spec)
        if weights is None and (shipped := NETWORKS[spec].weights):
            weights = WEIGHTS / shipped
    if weights is not None:
        load_weights(loaded.module, weights)
    loaded.module.eval()
    return loaded


def load_weights(module: nn.Module, path: Path) -> None:
    """Put the tensors of a weights file into `module`, name by name; float16 ones become what the module holds."""
    state = _read_state(path)
    _check_state(module.state_dict(), state, path)
    module.load_state_dict(state)


def _builtin(name: str) -> LoadedModel:
    network = NETWORKS.get(name)
    if network is None:
        raise ModelError(_unknown(name))
    return LoadedModel(name, network.build(), network.input_shape, network.dataset)


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, NETWORKS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"the built-in networks are {', '.join(NETWORKS)}."
    return f"There is no network '{name}': expected a built-in name, file.onnx or file.py:factory; {hint}"


def _from_factory(path: Path, factory: str) -> LoadedModel:
    if not path.is_file():
        raise ModelError(f"There is no file {path} to take the factory '{factory}' from.")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None and specification.loader is not None
    user_module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(user_module)
    build = getattr(user_module, factory, None)
    if not callable(build):
        raise ModelError(f"{path} has no function '{factory}'; give the name of one that returns a torch.nn.Module.")
    module = build()
    if not isinstance(module, nn.Module):
        raise ModelError(f"{factory}() in {path} must return a torch.nn.Module, but returned {type(module).__name__}.")
    return LoadedModel(factory, module, None, None)


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
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
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
