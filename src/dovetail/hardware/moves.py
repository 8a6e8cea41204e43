"""What moves between a chip's memories during a layer, and the time it takes: from moves to accesses and cycles."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from dovetail.hardware.arch import Chip, Memory
from dovetail.hardware.cost import Access, Cycles, operation_for
from dovetail.hardware.layer import OPERANDS, Layer, Operand
from dovetail.hardware.mapping import Mapping

Action = Literal["read", "write"]
Phase = Literal["filling", "running", "draining"]


class Port(NamedTuple):
    """What passes one memory: elements and bits in all, in equal `transfers` that `instances` of it share evenly."""

    memory: Memory
    action: Action
    elements: float
    bits: float
    instances: int
    transfers: float = 1

    @property
    def carried(self) -> float:
        """The bits of the words that they take."""
        return self.memory.carried(self.bits, self.transfers)


class Move(NamedTuple):
    """Elements of an operand between a memory (`inner`; None: the processing elements) and the next one outwards."""

    operand: Operand
    inner: Memory | None
    ports: tuple[Port, ...]
    phase: Phase = "running"


def accesses(moves: Iterable[Move]) -> Iterator[Access]:
    sums: dict[tuple[str, Operand, Action], list[float]] = defaultdict(lambda: [0, 0, 0])
    for move in moves:
        for port in move.ports:
            entry = sums[port.memory.name, move.operand, port.action]
            entry[0] += port.elements
            entry[1] += port.bits
            entry[2] += port.carried / port.memory.width_bits
    for (memory, operand, action), (elements, bits, words) in sums.items():
        if elements:
            yield Access(memory, operand, action, elements, bits, words)


def cycles(chip: Chip, layer: Layer, mapping: Mapping, moves: list[Move]) -> Cycles:
    """The cycles of a layer under a mapping whose steps take as long as the array's operations."""
    skipped = math.prod(layer.density[operand] for operand in OPERANDS if operand in chip.arithmetic.skips)
    return waiting(chip, mapping.steps * operation_for(chip, layer).cycles * skipped, moves)


def waiting(chip: Chip, computing: float, moves: list[Move]) -> Cycles:
    """The first tiles arrive, the array computes for so many cycles, the last outputs leave.

    Meanwhile every port must move its bits: the busiest stalls the array by what it needs beyond the rest. Into and out
    of memories that are not double-buffered nothing moves while the array computes.
    """
    running = [move for move in moves if move.phase == "running"]
    stalled = {}
    for memory in chip.memory:
        alone = [move for move in running if move.inner is memory]
        if not memory.double_buffered and (time := max(port_cycles(alone).values(), default=0.0)):
            stalled[memory.name] = time
    spent = computing + sum(stalled.values())
    ports = port_cycles(running)
    for memory in reversed(chip.memory):
        if memory.name in ports and ports[memory.name] == max(ports.values()) > spent:
            stalled[memory.name] = stalled.get(memory.name, 0.0) + ports[memory.name] - spent
            break
    filling, draining = (
        max(port_cycles(move for move in moves if move.phase == phase).values(), default=0.0)
        for phase in ("filling", "draining")
    )
    return Cycles(computing, filling, draining, stalled)


def port_cycles(moves: Iterable[Move]) -> dict[str, float]:
    """By memory, the cycles that one instance needs for its part of the moves."""
    bits: dict[tuple[str, str], float] = defaultdict(float)
    memories = {}
    for port in (port for move in moves for port in move.ports):
        memories[port.memory.name] = port.memory
        bits[port.memory.name, port.action] += port.carried / port.instances
    found = {}
    for name, memory in memories.items():
        read, write = bits[name, "read"], bits[name, "write"]
        if memory.shared_port:
            read, write = read + write, 0
        found[name] = max(read / (memory.read_bandwidth or math.inf), write / (memory.write_bandwidth or math.inf))
    return found
