"""The commands that run networks in the native engine: on inputs of yours, and beside other runtimes."""

import io
import resource
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

import dovetail
from dovetail import arguments
from dovetail.arguments import console, messages
from dovetail.errors import DataError, DovetailError
from dovetail.optional import lazy

if TYPE_CHECKING:
    from dovetail.runtime import EngineSession, files
    from dovetail.runtime.session import Input
    from dovetail.targets import peers, target, timing
else:
    files = lazy("dovetail.runtime.files")
    peers, target, timing = (lazy(f"dovetail.targets.{file}") for file in ("peers", "target", "timing"))

Runnable = Annotated[Path, typer.Argument(metavar="MODEL", help="A .dvt file, or an .onnx file.")]
InputFile = Annotated[
    Path | None,
    typer.Option(
        help="A folder of pictures, a picture, a .npy file of inputs, or an .npz file with an array for each input of "
        "the network; else the test images of --data."
    ),
]
DataSet = Annotated[
    str | None, typer.Option(help="The data set that pictures are normalised like, and whose classes are named.")
]
ThreadCount = Annotated[int, typer.Option(help="Processor threads.")]

Inputs = dict[str, NDArray[Any]]
"""By the names that the network has for them."""


def run(
    model: Runnable,
    input: InputFile = None,
    data: DataSet = None,
    batch: Annotated[int, typer.Option(help="How many inputs to run at once.")] = 1,
    threads: ThreadCount = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first inputs.")] = None,
    kernels: Annotated[bool, typer.Option("--kernels", help="Show which kernel each layer uses, and why.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the output to this .npy file; several outputs are written as .npz.")
    ] = None,
) -> None:
    """Run a network in the native engine: predictions, latency, memory, and how long it takes to start."""
    _check_batch(batch)
    load = dovetail.load  # imports what it needs, which is not the network's start
    started = time.perf_counter()
    session = load(model, threads)
    start = time.perf_counter() - started
    with messages.status("running"):
        names, classes, batches = _inputs(session, input, data, limit, batch)
        first = next(batches)
        results = _joined([session.run(first), *map(session.run, batches)])
        size = _batch_size(session, first)
        memory = _memory(session, size)  # before the timing, which imports PyTorch
        samples = timing.Timing(threads=threads).samples(lambda: session.run(first))
    if kernels:
        console.print(dovetail.kernels_table(session.describe()))
    result, *others = results.values()
    if others or result.dtype.kind != "f" or not result.ndim or len(names or result) != len(result):
        console.print(dovetail.outputs_table(results))
    else:
        console.print(dovetail.predictions_table(names or [str(i) for i in range(len(result))], result, classes))
    facts = {
        "latency": f"{_spread(timing.latency(samples))} for {size}, on {threads} threads",
        "start": f"{1e3 * start:.1f} ms to load, verify and plan",
        "memory": memory,
    }
    for what, found in facts.items():
        console.print(f"{what:8} {found}", highlight=False)
    if out is not None:
        content = io.BytesIO()
        if others:
            with zipfile.ZipFile(content, "w") as archive:  # numpy.savez takes some names for arguments of its own
                for name, array in results.items():
                    with archive.open(f"{name}.npy", "w") as part:
                        np.lib.format.write_array(part, np.asarray(array), allow_pickle=False)
        else:
            np.save(content, result, allow_pickle=False)
        files.write_atomically(out, content.getvalue())
        print(out)


def bench(
    model: Runnable,
    vs: Annotated[list[str] | None, typer.Option(help="onnxruntime or openvino; may be repeated.")] = None,
    batch: Annotated[
        list[int] | None, typer.Option(help="How many inputs at once; may be repeated. Default: 1.")
    ] = None,
    threads: ThreadCount = 1,
    input: InputFile = None,
    data: DataSet = None,
    seconds: Annotated[float, typer.Option(min=0, help="How long to time each pair.")] = 1.0,
) -> None:
    """Time the native engine beside other runtimes: answers are compared first, then both are called in turn."""
    openings = {name: dovetail.load_peer(name) for name in vs or ["onnxruntime"]}
    for size in batch or [1]:
        _check_batch(size)
    session = dovetail.load(model, threads)
    standard = dovetail.standard_model(model)
    rows = []
    for size in batch or [1]:
        inputs = _some_inputs(session, input, data, size)
        session.run(inputs)  # refuses what does not fit; where sides are open it is planned now
        given, count = [inputs[entry.name] for entry in session.inputs], _batch_size(session, inputs)
        for name, opening in openings.items():
            with messages.status(f"{name}, batch {count}"):
                peer = opening(standard, threads, [array.shape for array in given])
                ours = _in_order(session)
                rows.append(peers.compare(ours, peer, name, given, seconds, batch=count, bits=session.bits))
    console.print(dovetail.comparisons_table(model.name, rows, timing.machine() | {"threads": str(threads)}))


def _check_batch(size: int) -> None:
    if not 1 <= size <= 65536:
        raise DovetailError(f"--batch is 1 to 65536 inputs at once, got {size}.")


def _inputs(
    session: "EngineSession", path: Path | None, data: str | None, limit: int | None, batch: int
) -> tuple[list[str], tuple[str, ...], Iterator[Inputs]]:
    """What the inputs are called, what classes are, and the inputs in batches."""
    if path is not None and path.suffix == ".npz":
        return [], (), iter([_arrays(path)])
    entry = _only_input(session)
    if path is not None and path.suffix == ".npy":
        array = _from_array(path, entry)[:limit]
        return [], (), ({entry.name: array[i : i + batch]} for i in range(0, len(array), batch))
    if path is None and data is None:
        data = _own_data(session)
    shape = _shape(entry)
    like = dovetail.load_dataset(data, shape) if data is not None else None
    names: list[str] = []
    if path is not None:
        if not path.exists():
            raise DataError(f"{path} does not exist; give a folder of pictures, a picture, or a .npy file.")
        dataset, files = dovetail.pictures(path, shape, like)
        names = [file.name for file in files][:limit]
    else:
        assert like is not None
        dataset = like
    given = ({entry.name: x.contiguous().numpy()} for x, _ in dataset.batches("test", batch, limit=limit))
    return names, dataset.classes, given


def _own_data(session: "EngineSession") -> str:
    provenance = session.artefact.provenance if session.artefact is not None else {}
    return arguments.dataset_of(provenance.get("dataset"), "The network")


def _only_input(session: "EngineSession") -> "Input":
    if len(session.inputs) != 1:
        reads = ", ".join(entry.name for entry in session.inputs)
        raise DataError(
            f"The network reads {len(session.inputs)} inputs ({reads}): give an .npz file with an array for each with "
            "--input, as numpy.savez writes it."
        )
    return session.inputs[0]


def _shape(entry: "Input") -> tuple[int, ...]:
    sides = tuple(side for side in entry.one if side is not None)
    if len(sides) != len(entry.one):
        raise DataError(
            f"The network leaves the shape of its input {entry.name} open; give a .npy file of inputs, or an .npz file "
            "if it reads several, with --input."
        )
    return sides


def _from_array(path: Path, entry: "Input") -> NDArray[Any]:
    """A batch of inputs, or one input, from a .npy file."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as an array of numbers ({error}); write it with numpy.save.") from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} holds several arrays; one is needed, as numpy.save writes it.")
    if not array.size:
        raise DataError(f"{path} holds no inputs: its shape is {array.shape}.")
    if array.ndim == len(entry.one):
        array = array[None]
    return _usable(array, str(path))


def _arrays(path: Path) -> Inputs:
    """Arrays by their names from an .npz file."""
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if isinstance(arrays, np.ndarray):
                raise DataError(f"{path} holds one array without a name; write it with numpy.savez.")
            return {name: _usable(arrays[name], f"{name} in {path}") for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as arrays of numbers ({error}); write it with numpy.savez.") from None


def _usable(array: NDArray[Any], whose: str) -> NDArray[Any]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{whose} holds NaN or infinity, of which no answer can be made.")
    return np.asarray(array, order="C")


def _joined(results: Sequence[Inputs]) -> Inputs:
    """The outputs of several batches as those of one."""
    if len(results) == 1:
        return results[0]
    try:
        return {name: np.concatenate([result[name] for result in results]) for name in results[0]}
    except ValueError as error:
        raise DovetailError(
            f"The outputs of the batches are not to be joined ({error}); run one, with --limit."
        ) from None


def _in_order(session: "EngineSession") -> "peers.Run":
    names = [entry.name for entry in session.inputs]
    return lambda arrays: list(session.run(dict(zip(names, arrays, strict=True))).values())


def _batch_size(session: "EngineSession", inputs: Inputs) -> int:
    return max((inputs[one.name].shape[one.batch] for one in session.inputs if one.batch is not None), default=1)


def _some_inputs(session: "EngineSession", path: Path | None, data: str | None, size: int) -> Inputs:
    """A batch of the inputs given, over and over if they are too few; noise if none are given.

    Several, from an .npz file, are one batch as they are.
    """
    if path is not None and path.suffix == ".npz":
        return _arrays(path)
    if path is not None or data is not None:
        ((name, batch),) = next(_inputs(session, path, data, size, size)[2]).items()
        return {name: np.ascontiguousarray(np.resize(batch, (size, *batch.shape[1:])))}
    generator = np.random.default_rng(0)
    return {entry.name: _noise(entry, size, generator) for entry in session.inputs}


def _noise(entry: "Input", batch: int, generator: np.random.Generator) -> NDArray[Any]:
    sides = list(_shape(entry))
    if entry.batch is not None:
        sides.insert(entry.batch, entry.shape[entry.batch] or batch)
    if entry.type.kind == "f":
        return np.asarray(generator.standard_normal(sides), entry.type)
    return np.asarray(generator.integers(0, 2, sides), entry.type)


def _memory(session: "EngineSession", batch: int) -> str:
    weights = sum(row.weight_bytes for row in session.describe())
    activations = session.memory(batch)
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (
        f"{activations.peak:,} bytes of activations ({activations.bound:,} at least), {weights:,} of weights; "
        f"this process at most {process / 1e6:,.0f} MB"
    )


def _spread(quantity: "target.Quantity") -> str:
    return f"{quantity.value:.3f} {quantity.unit} ({quantity.low:.3f} to {quantity.high:.3f})"
