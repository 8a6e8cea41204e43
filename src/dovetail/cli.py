"""The command line. Each command is a few calls of public functions; what they raise becomes one sentence."""

import csv
import hashlib
import inspect
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import dovetail
from dovetail import arguments, cli_chips, cli_engine
from dovetail.arguments import ArtefactFile, Data, InputShape, Model, Targets, Threads, Weights, console, messages
from dovetail.errors import DataError, DovetailError, ModelError
from dovetail.machine import keep_freed_memory
from dovetail.optional import lazy

if TYPE_CHECKING:
    import torch
    from safetensors import numpy as safetensors

    from dovetail import train as training_room
    from dovetail.compression import Compressed
    from dovetail.data import Dataset
    from dovetail.networks import LoadedModel
    from dovetail.recipe import Recipe
    from dovetail.runtime import files
    from dovetail.targets import ModuleLatency, Target
else:
    torch, safetensors = lazy("torch"), lazy("safetensors.numpy")
    training_room, files = lazy("dovetail.train"), lazy("dovetail.runtime.files")

app = typer.Typer(
    help="Cuts a neural network and the chip it runs on to fit each other.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run a command. What a user can put right is one sentence on stderr, and exit code 2."""
    keep_freed_memory()
    try:
        app()
    except DovetailError as error:
        _fail(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}; put it right, then run the same command again.")
    except MemoryError:
        _fail("There is not enough memory; try a smaller batch or a smaller network.")
    except SystemExit as end:
        if end.code == 130:
            print("interrupted; run the same command again to resume", file=sys.stderr)
        raise


def _fail(sentence: str) -> NoReturn:
    print(f"dovetail: {' '.join(sentence.split())}", file=sys.stderr)
    raise SystemExit(2) from None


def _say_version(asked: bool) -> None:
    if asked:
        print(dovetail.__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """What comes before the command."""


@app.command()
def compress(
    model: Model,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A recipe's name, a .toml file, or a method's name (one step, retrained as fits its kind). "
            "Default: deep_compression; mixed for --bits; for other budgets channels, or lowrank without retraining."
        ),
    ] = None,
    macs: Annotated[float | None, typer.Option(help="Keep this fraction of the multiply-accumulates.")] = None,
    params: Annotated[float | None, typer.Option(help="Keep this fraction of the parameters.")] = None,
    sparsity: Annotated[float | None, typer.Option(help="Set this fraction of the weights to zero.")] = None,
    bits: Annotated[
        float | None,
        typer.Option(help="Store weights in so many bits on average, from 2 to 8; each layer gets its own."),
    ] = None,
    latency: Annotated[
        float | None,
        typer.Option(help="Keep this fraction of the latency, on --target: as measured here, or modelled on a chip."),
    ] = None,
    data: Data = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="A folder of a few images: layers are fitted to what the original makes of them, labels and "
            "retraining left out. Without any data, outputs are compared on noise."
        ),
    ] = None,
    input_shape: InputShape = None,
    out: Annotated[Path, typer.Option(help="The folder for model.dvt, record.json and report.html.")] = Path("out"),
    weights: Weights = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same file.")] = 0,
    max_drop: Annotated[float | None, typer.Option(min=0, help="Stop before losing more than so many points.")] = None,
    judge: Annotated[
        Literal["validation", "test"],
        typer.Option(help="Where --max-drop is measured; test if the network was trained on the whole training set."),
    ] = "validation",
    target: Targets = None,
    no_training: Annotated[bool, typer.Option("--no-training", help="Leave out all retraining.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the plan: a table, what it will come to, plan.html and .png.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard the run that OUT holds, and begin anew.")] = False,
    threads: Threads = None,
) -> None:
    """Compress a network by a recipe. A run that was stopped goes on when the same command is given again."""
    targets = [dovetail.load_target(name) for name in target or dovetail.USUAL_TARGETS]
    budget = arguments.budget_of(
        {"macs": macs, "params": params, "sparsity": sparsity, "latency": latency, "bits": bits}
    )
    named = dovetail.Recipe.load(recipe or "deep_compression") if recipe or budget is None else None
    if threads is not None:
        torch.set_num_threads(threads)
    if arguments.untrained(model, weights):
        raise ModelError(f"Network {model} comes without trained weights; give it some with --weights")
    network = arguments.shaped(dovetail.load_model(model, weights), input_shape)
    dataset = arguments.some_data(network, data, images)
    untrained = no_training or dataset.synthetic or images is not None
    steps = arguments.recipe_of(named, budget, untrained=untrained, target=target)
    measure = dovetail.ModuleLatency(arguments.timed(target))
    if dry_run:
        _show_plan(network, dataset, steps, measure, out)
        return
    if fresh and (out / "run").exists():
        shutil.rmtree(out / "run")
    with _progress() as progress:
        compressed = dovetail.compress(
            network.module,
            dataset,
            steps,
            name=model,
            seed=seed,
            max_drop=max_drop,
            judge=judge,
            latency=measure,
            folder=out / "run",
            progress=progress,
        )
    for undone in (entry for entry in compressed.history if not entry.kept):
        messages.print(f"{undone.method}, round {undone.stage + 1}, lost more than {max_drop} points and was undone.")
    _write(compressed, network, targets, out)


def _show_plan(
    network: "LoadedModel", dataset: "Dataset", steps: "Recipe", measure: "ModuleLatency", out: Path
) -> None:
    with _progress() as progress:
        seen = dovetail.preview(network.module, dataset, steps, measure, progress)
    with messages.status("planning"):
        words = dovetail.expectations(network.module, seen, dataset.example(), [measure.target])
    titled = [(f"step {number}: {method.name}", plan) for number, (method, plan) in enumerate(seen.steps, 1)]
    for title, plan in titled:
        console.print(dovetail.plan_table(title, plan))
    for sentence in words:
        console.print(Text(sentence))
    print(dovetail.write_plan(titled, words, out))


def _write(compressed: "Compressed", network: "LoadedModel", targets: list["Target"], out: Path) -> None:
    """Freeze, evaluate and report."""
    dataset = compressed.dataset
    artefact = dovetail.freeze(
        compressed.model,
        dataset.example(),
        remaining=compressed.remaining,
        provenance=compressed.provenance,
    )
    artefact.save(out / "model.dvt")
    with messages.status("evaluating") as status:
        record = dovetail.evaluate(
            artefact,
            dataset,
            targets,
            original=network.module,
            plans=compressed.plans,
            progress=status.update,
            refused=messages.print,
        )
    files.write_atomically(out / "record.json", record.to_json())
    page = dovetail.write_report([record], out)
    console.print(dovetail.summary_table(record))
    print(f"{out / 'model.dvt'}, {out / 'record.json'}, {page}")


@app.command()
def evaluate(
    artefact: ArtefactFile,
    data: Data = None,
    target: Targets = None,
    original: Annotated[str | None, typer.Option(help="The network it was made from, to stand beside it.")] = None,
    weights: Weights = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first test images.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the record to this .json file.")] = None,
) -> None:
    """Measure an artefact: accuracy, bytes, and what it costs on each target."""
    targets = [dovetail.load_target(name) for name in target or dovetail.USUAL_TARGETS]
    session = dovetail.Session(dovetail.Artefact.load(artefact))
    name = data or arguments.dataset_of(session.artefact.provenance.get("dataset"), str(artefact))
    dataset = dovetail.load_dataset(name, tuple(side for side in session.input.one if side) or None)
    network = dovetail.load_model(original, weights).module if original else None
    if dataset.task.targets_from_original and not dataset.synthetic:
        outputs = torch.from_numpy(session(dataset.example().contiguous().numpy()))
        dataset = replace(dataset, task=dovetail.matching(outputs))
    with messages.status("evaluating") as status:
        record = dovetail.evaluate(
            session.artefact, dataset, targets, original=network, limit=limit, progress=status.update
        )
    if out is not None:
        files.write_atomically(out, record.to_json())
    console.print(dovetail.summary_table(record))


@app.command()
def profile(
    model: Model,
    data: Data = None,
    weights: Weights = None,
    input_shape: InputShape = None,
    batch: Annotated[int, typer.Option(min=1, help="How many inputs to run at once.")] = 1,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the layers as comma-separated values.")] = False,
) -> None:
    """Show what a network computes: operations, parameters, activations and zeros, by kind, by layer and by place."""
    network = arguments.shaped(dovetail.load_model(model, weights), input_shape)
    if data is not None:
        inputs = arguments.fitting(data, network).example(batch)
    elif network.input_shape is not None:
        inputs = torch.randn(batch, *network.input_shape, generator=torch.Generator().manual_seed(0))
        messages.print("The input is random, so densities of activations mean little; --data gives real input.")
    else:
        raise DataError(f"{network.name} does not say what input it takes; give --input-shape, or data with --data")
    workload = dovetail.trace(network.module, inputs)
    if as_csv:
        rows = [asdict(row) for row in workload.by_layer()]
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return
    console.print(*dovetail.profile_tables(workload, dovetail.sparsity(network.module, workload)))


@app.command("inspect")
def inspect_(artefact: ArtefactFile) -> None:
    """Show what each tensor of an artefact is stored as, the bytes by part, the checksum and the provenance."""
    loaded = dovetail.Artefact.load(artefact)
    console.print(dovetail.inspect_table(loaded))
    facts = {"sha256": hashlib.sha256(artefact.read_bytes()).hexdigest(), **loaded.provenance}
    _show("provenance", [{"what": name, "is": value} for name, value in facts.items()])


@app.command()
def export(
    artefact: ArtefactFile,
    to: Annotated[
        Literal["onnx", "plan"], typer.Option(help="A standard ONNX file, or what the C interface runs.")
    ] = "onnx",
    out: Annotated[Path | None, typer.Option(help="The file to write; else beside the artefact.")] = None,
    integers: Annotated[
        bool | None,
        typer.Option("--integers/--floats", help="Integer arithmetic; default: where the network is quantised."),
    ] = None,
) -> None:
    """Write an artefact as a standard file that any runtime takes, or as one that runs without Python."""
    path = out or artefact.with_suffix(f".{to}")
    if to == "plan":
        dovetail.export_plan(dovetail.Artefact.load(artefact), path)
    else:
        dovetail.export_onnx(dovetail.Artefact.load(artefact), path, integers=integers)
    print(path)


@app.command("list")
def list_(
    what: Annotated[Literal["methods", "formats", "networks", "datasets", "targets", "recipes"], typer.Argument()],
) -> None:
    """List the methods, formats, networks, data sets, targets or recipes that there are."""
    if what == "methods":
        rows = [{"name": name, "kind": m.kind, "what it does": _first_line(m)} for name, m in dovetail.METHODS.items()]
    else:
        rows = [{"name": name, "": about} for name, about in _listing(what)]
    _show(what, rows)


@app.command()
def train(
    network: Model,
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    data: Data = None,
    weights: Weights = None,
    epochs: Annotated[int, typer.Option(min=0)] = 10,
    learning_rate: Annotated[float, typer.Option()] = 0.1,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = "sgd",
    weight_decay: Annotated[float, typer.Option(min=0)] = 5e-4,
    label_smoothing: Annotated[float, typer.Option(min=0)] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same weights.")] = 0,
    threads: Threads = None,
) -> None:
    """Train a network from its random weights, or from those given, and write what it learned."""
    training = dovetail.Training(
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        optimizer=optimizer,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
    )
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    loaded, dataset = arguments.network_and_data(network, weights, data)
    checkpoint = out.with_suffix(".unfinished")
    with _progress() as progress:
        training_room.train(loaded.module, dataset, training, seed=seed, checkpoint=checkpoint, progress=progress)
    state = {name: tensor.detach().numpy() for name, tensor in loaded.module.state_dict().items()}
    files.write_atomically(out, safetensors.save(state))
    checkpoint.unlink(missing_ok=True)
    reached = dovetail.score(loaded.module, dataset)
    print(f"{out}: {dataset.task.metric} {reached:.2%} on the test set of {dataset.name}")


@app.command()
def report(
    records: Annotated[list[Path], typer.Argument(help="record.json files.")],
    out: Annotated[Path, typer.Option(help="The folder for report.html and its pictures.")] = Path("report"),
) -> None:
    """Show records side by side in one HTML page."""
    print(dovetail.write_report([dovetail.Record.from_json(path.read_text()) for path in records], out))


app.command()(cli_engine.run)
app.command()(cli_engine.bench)
app.command()(cli_chips.simulate)
app.add_typer(cli_chips.chips_app, name="chips")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=messages,
        transient=True,
        disable=not messages.is_terminal,
    )


def _listing(what: str) -> Iterable[tuple[str, str]]:
    """Name and one line about each."""
    match what:
        case "formats":
            return [(form.name, _first_line(form)) for form in dovetail.FORMATS]
        case "networks":
            return [
                (name, f"input {'x'.join(map(str, n.input_shape))}, {_weights(n.weights)}. {n.source}")
                for name, n in dovetail.NETWORKS.items()
            ]
        case "datasets":
            return [(name, _first_line(load)) for name, load in dovetail.DATASETS.items()]
        case "targets":
            known = [(name, _first_line(target)) for name, target in dovetail.TARGETS.items()]
            return known + [(name, f"{dovetail.Chip.load(name).title}; modelled.") for name in dovetail.chip_names()]
        case _:
            recipes = {name: dovetail.Recipe.load(name) for name in dovetail.builtin_recipes()}
            return [(name, ", ".join(step.method.name for step in recipe.steps)) for name, recipe in recipes.items()]


def _weights(file: str | None) -> str:
    return "trained weights" if file else "random weights"


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _show(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """A table whose columns are the keys of the rows; what looks like a number stands to the right."""
    table = Table(title=title, title_justify="left")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[str(row.get(column, "")) for column in columns] for row in rows]
    for column, values in zip(columns, zip(*cells, strict=True), strict=True):
        numeric = all(value[:1].isdigit() for value in values if value)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)
