"""A systolic array run cycle by cycle: the judge of the closed forms in systolic_array.py.

A processing element talks to its left and upper neighbours only, and everything lies in registers in between. Rows and
columns are fed with a delay of one cycle each, so that what belongs together meets:

    "ws"   weights stay (two sets: one works, the next is shifted in from above), inputs move right, sums move down
    "is"   the same array with the operands exchanged: O^T = W^T I^T
    "os"   sums stay, inputs move right, weights move down; finished sums are shifted out below in a second set

A tile that does not fill the array is filled up with zeros, which take their time like everything else. No closed form
is used here: cycles are counted until the last sum has left the array, and what is read, written and handed on, zeros
that fill up left out, is counted as it happens.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dovetail.hardware.layer import Operand

Dataflow = Literal["ws", "os", "is"]
Integers = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

NOTHING, PADDING, REAL = 0, 1, 2
"""What a register holds: nothing, a zero that fills a tile up, or an element of a matrix."""


@dataclass(frozen=True)
class Run:
    """What happened: elements read and written at the array's edge, and handed from register to register (`hops`)."""

    output: Integers
    cycles: int
    macs: int
    reads: Counter[Operand]
    writes: Counter[Operand]
    hops: Counter[Operand]


def run(
    inputs: Integers,
    weights: Integers,
    rows: int,
    columns: int,
    dataflow: Dataflow,
    overlap: bool,
    period: int | None = None,
) -> Run:
    """`inputs` (pixels x window) times `weights` (window x filters) on an array of `rows` x `columns`.

    With `overlap` a tile starts `period` cycles after the one before (None: as soon as the edges are free for it;
    sooner, tiles meet there and sums are lost); without, once the one before has left the array.
    """
    machine: _Array
    if dataflow == "os":
        machine = _OutputStationary(inputs, weights, rows, columns, ("I", "W", "O"))
    elif dataflow == "ws":
        machine = _WeightStationary(inputs, weights, rows, columns, ("I", "W", "O"))
    else:
        machine = _WeightStationary(weights.T, inputs.T, rows, columns, ("W", "I", "O"))
    period = max(machine.length, rows) if period is None else period
    patience = (len(machine.tiles) + 1) * (machine.length + 4 * (rows + columns))
    cycle = 0
    while not machine.done and cycle < patience:
        if overlap:
            machine.start(cycle, cycle == period * len(machine.starts))
        else:
            machine.start(cycle, machine.left == len(machine.starts) * machine.sums_of_tile)
        machine.step(cycle)
        cycle += 1
    output = machine.output.T if dataflow == "is" else machine.output
    return Run(output, cycle, machine.macs, machine.reads, machine.writes, machine.hops)


class _Array:
    """Registers, tiles in the order in which they run, and counters."""

    def __init__(self, left: Integers, above: Integers, rows: int, columns: int, names: tuple[Operand, ...]) -> None:
        self.left_matrix, self.above_matrix = left.astype(np.int32), above.astype(np.int32)
        self.shape = rows, columns
        self.row, self.column = np.arange(rows), np.arange(columns)
        self.names = names
        self.output = np.zeros((left.shape[0], above.shape[1]), np.int32)
        self.starts: list[int] = []
        self.left = self.macs = 0
        self.reads: Counter[Operand] = Counter()
        self.writes: Counter[Operand] = Counter()
        self.hops: Counter[Operand] = Counter()
        height, self.length, sums = self.layout()
        self.tiles = np.array(
            [
                (r, c, min(rows, height - r), min(columns, above.shape[1] - c))
                for c in range(0, above.shape[1], columns)
                for r in range(0, height, rows)
            ]
        )
        self.sums_of_tile = sums * columns

    def layout(self) -> tuple[int, int, int]:
        """What the rows hold in all, how many cycles a tile's stream has, and the sums that leave a column for it."""
        raise NotImplementedError

    def step(self, cycle: int) -> None:
        """One cycle of every processing element."""
        raise NotImplementedError

    @property
    def done(self) -> bool:
        return self.left == len(self.tiles) * self.sums_of_tile

    def start(self, cycle: int, ready: bool) -> None:
        if ready and len(self.starts) < len(self.tiles):
            self.starts.append(cycle)

    def phase(self, cycle: int, delay: npt.NDArray[np.int_], length: int) -> tuple[Integers, Integers, Flags]:
        """For lanes that run `delay` cycles behind: the tile each is at, the cycle of it, and whether it is in one."""
        local = cycle - delay
        tile = np.searchsorted(self.starts, local, side="right") - 1
        time = local - np.asarray(self.starts)[tile]
        return self.tiles[tile], time, (tile >= 0) & (time < length)


class _WeightStationary(_Array):
    """Rows hold the window: `above` stays, `left` streams through, sums come out below."""

    def layout(self) -> tuple[int, int, int]:
        self.value, self.value_kind, self.sums, self.active, self.active_kind, self.shadow, self.shadow_kind = (
            np.zeros(self.shape, np.int32) for _ in range(7)
        )
        self.swap = np.zeros(self.shape, bool)
        return self.left_matrix.shape[1], self.left_matrix.shape[0], self.left_matrix.shape[0]

    def step(self, cycle: int) -> None:
        rows = self.shape[0]
        streaming, _, summed = self.names
        tile, time, busy = self.phase(cycle, self.row + rows, self.length)
        real = busy & (self.row < tile[:, 2])
        fed = np.zeros(rows, np.int32)
        fed[real] = self.left_matrix[time[real], (tile[:, 0] + self.row)[real]]
        self.reads[streaming] += int(real.sum())
        self.value = _right(self.value, fed)
        self.value_kind = _right(self.value_kind, np.where(real, REAL, np.where(busy, PADDING, NOTHING)))
        self.swap = _right(self.swap, busy & (time == 0))
        self.active = np.where(self.swap, self.shadow, self.active)
        self.active_kind = np.where(self.swap, self.shadow_kind, self.active_kind)
        self.sums = _down(self.sums, np.zeros(self.shape[1], np.int32)) + self.active * self.value
        macs = int(((self.value_kind == REAL) & (self.active_kind == REAL)).sum())
        self.macs += macs
        self.hops[streaming] += macs
        self.hops[summed] += int(((self.value_kind != NOTHING) & (self.active_kind != NOTHING)).sum())
        self._leave(cycle)
        self._load(cycle)

    def _leave(self, cycle: int) -> None:
        summed = self.names[2]
        tile, time, busy = self.phase(cycle, self.column + 2 * self.shape[0] - 1, self.length)
        out = busy & (self.column < tile[:, 3])
        self.output[time[out], (tile[:, 1] + self.column)[out]] += self.sums[-1, out]
        self.left += int(busy.sum())
        self.writes[summed] += int(out.sum())
        self.reads[summed] += int((out & (tile[:, 0] > 0)).sum())

    def _load(self, cycle: int) -> None:
        """The next tile moves down; a row takes part until what it is to keep has come."""
        rows, staying = self.shape[0], self.names[1]
        tile, time, busy = self.phase(cycle, self.column, rows)
        wanted = rows - 1 - time
        used = busy & (self.column < tile[:, 3])
        real = used & (wanted < tile[:, 2])
        fed = np.zeros(self.shape[1], np.int32)
        fed[real] = self.above_matrix[(tile[:, 0] + wanted)[real], (tile[:, 1] + self.column)[real]]
        self.reads[staying] += int(real.sum())
        moves = busy & (time >= self.row[:, None])
        self.shadow = np.where(moves, _down(self.shadow, fed), self.shadow)
        kinds = np.where(real, REAL, np.where(used, PADDING, NOTHING))
        self.shadow_kind = np.where(moves, _down(self.shadow_kind, kinds), self.shadow_kind)
        self.hops[staying] += int((moves & (self.shadow_kind == REAL)).sum())


class _OutputStationary(_Array):
    """Rows hold pixels: `left` and `above` stream through, sums stay until they are finished."""

    def layout(self) -> tuple[int, int, int]:
        self.value, self.value_kind, self.weight, self.weight_kind, self.sums, self.out, self.out_kind = (
            np.zeros(self.shape, np.int32) for _ in range(7)
        )
        self.first, self.last = np.zeros(self.shape, bool), np.zeros(self.shape, bool)
        return self.left_matrix.shape[0], self.left_matrix.shape[1], self.shape[0]

    def step(self, cycle: int) -> None:
        moving, falling, _ = self.names
        tile, time, busy = self.phase(cycle, self.row, self.length)
        real = busy & (self.row < tile[:, 2])
        fed = np.zeros(self.shape[0], np.int32)
        fed[real] = self.left_matrix[(tile[:, 0] + self.row)[real], time[real]]
        self.reads[moving] += int(real.sum())
        self.value, self.value_kind = _right(self.value, fed), _right(self.value_kind, np.where(real, REAL, NOTHING))
        self.first = _right(self.first, busy & (time == 0))
        self.last = _right(self.last, busy & (time == self.length - 1))

        tile, time, busy = self.phase(cycle, self.column, self.length)
        real = busy & (self.column < tile[:, 3])
        fed = np.zeros(self.shape[1], np.int32)
        fed[real] = self.above_matrix[time[real], (tile[:, 1] + self.column)[real]]
        self.reads[falling] += int(real.sum())
        self.weight, self.weight_kind = _down(self.weight, fed), _down(self.weight_kind, np.where(real, REAL, NOTHING))

        self.sums = np.where(self.first, 0, self.sums) + self.value * self.weight
        both = (self.value_kind == REAL) & (self.weight_kind == REAL)
        self.macs += int(both.sum())
        self.hops[moving] += int(both.sum())
        self.hops[falling] += int(both.sum())
        self._leave(cycle)
        self.out = np.where(self.last, self.sums, self.out)
        self.out_kind = np.where(self.last, np.where(both, REAL, NOTHING), self.out_kind)

    def _leave(self, cycle: int) -> None:
        """Finished sums move down, the lowest out of the array; a row takes part until what was above has passed."""
        rows, summed = self.shape[0], self.names[2]
        tile, time, busy = self.phase(cycle, self.column + self.length + rows - 1, rows)
        wanted = rows - 1 - time
        out = busy & (self.column < tile[:, 3]) & (wanted < tile[:, 2])
        self.output[(tile[:, 0] + wanted)[out], (tile[:, 1] + self.column)[out]] = self.out[-1, out]
        self.left += int(busy.sum())
        self.writes[summed] += int(out.sum())
        gives = busy & (time <= self.row[:, None])
        self.hops[summed] += int((gives & (self.out_kind == REAL)).sum())
        takes = busy & (time < self.row[:, None])
        nothing = np.zeros(self.shape[1], np.int32)
        self.out = np.where(takes, _down(self.out, nothing), self.out)
        self.out_kind = np.where(takes, _down(self.out_kind, nothing), self.out_kind)


def _right(plane: npt.NDArray[Any], fed: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate((fed[:, None], plane[:, :-1]), axis=1)


def _down(plane: npt.NDArray[Any], fed: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate((fed[None, :], plane[:-1]), axis=0)
