"""The commands about chips: networks on them, those that there are, and one of your own."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import dovetail
from dovetail import arguments
from dovetail.arguments import Computed, InputShape, Weights, console, messages
from dovetail.optional import lazy

if TYPE_CHECKING:
    from dovetail.hardware import simulation
else:
    simulation = lazy("dovetail.hardware.simulation")

chips_app = typer.Typer(help="List the chips that there are; check one of your own.", invoke_without_command=True)


def simulate(
    model: Computed,
    on: Annotated[str, typer.Option(help="A chip's name (dovetail chips), or its .toml file.")],
    batch: Annotated[int, typer.Option(min=1, help="How many inputs to compute at once.")] = 1,
    objective: Annotated[
        Literal["energy", "latency", "edp"], typer.Option(help="What each layer is mapped for the least of.")
    ] = "energy",
    bits: Annotated[
        int | None, typer.Option(min=1, help="Compute with integers of so many bits; else as wide as the network says.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Search no longer for each layer's mapping, on chips of kind spatial.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Count the zeros of activations on this data set's first image.")
    ] = None,
    weights: Weights = None,
    input_shape: InputShape = None,
    report: Annotated[Path | None, typer.Option(help="Write report.html, record.json and pictures there.")] = None,
) -> None:
    """Show what a network costs on a chip: cycles, stalls, accesses and energy, by layer and in total."""
    chip = dovetail.Chip.load(on)
    workload, densities = arguments.workload_of(model, weights, data, input_shape)
    with messages.status("mapping") as status:
        cost = dovetail.simulate(
            chip,
            workload,
            batch=batch,
            objective=objective,
            bits=bits,
            seconds=seconds,
            progress=lambda done, of: status.update(f"mapping layer {done + 1} of {of}"),
        )
    record = dovetail.ChipRecord(
        network=Path(model).stem if model.endswith(".dvt") else Path(model).name,
        cost=cost,
        objective=objective,
        densities=densities,
        command=shlex.join(["dovetail", *sys.argv[1:]]),
    )
    console.print(*dovetail.chip_tables(record))
    if report is not None:
        print(dovetail.write_chip_report(record, report))


@chips_app.callback()
def chips(context: typer.Context) -> None:
    """List the chips: what they are made of, and where their numbers come from."""
    if context.invoked_subcommand is None:
        console.print(dovetail.chips_table(map(dovetail.Chip.load, dovetail.chip_names())))


@chips_app.command("check")
def check_chip(chip: Annotated[str, typer.Argument(help="A .toml file, or a chip's name.")]) -> None:
    """Check a chip: its keys, its sources, and that it can compute a small convolution and small matrix products."""
    loaded = dovetail.Chip.load(chip)
    costs = simulation.check(loaded)
    console.print(dovetail.chips_table([loaded]), dovetail.sources_table(loaded))
    for cost in costs:
        print(
            f"{cost.layer.name} of {cost.layer.macs:,} MACs: {cost.cycles:,.0f} cycles, {cost.picojoules / 1e3:,.1f} nJ"
        )
