"""The benchmark card of a network on a chip: what has to be said before it may be compared with another.

After V. Sze, Y.-H. Chen, T.-J. Yang, J. Emer, "Efficient Processing of Deep Neural Networks: A Tutorial and Survey",
Proceedings of the IEEE, 2017, section on benchmarking metrics: throughput and latency mean nothing without the batch,
power nothing without off-chip accesses, operations nothing without those that are zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from dovetail.errors import TargetError
from dovetail.report.charts import format_bytes, format_number
from dovetail.report.chip_charts import off_chip_bits

if TYPE_CHECKING:
    from dovetail.hardware import ChipRecord


@dataclass(frozen=True, kw_only=True)
class BenchmarkCard:
    """Everything is mandatory. Accesses, operations and energy are of one input; latency is that of the whole batch."""

    network: str
    chip: str
    batch: int
    bits: tuple[str, ...]
    macs: float
    nonzero_macs: float
    off_chip_bytes: float
    area_mm2: float | None
    power_milliwatts: float | None
    throughput: float | None
    latency_milliseconds: float | None
    utilisation: float | None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value in (None, "", ()) or (isinstance(value, int | float) and not 0 < value < math.inf):
                raise TargetError(
                    f"The benchmark card of {self.network or 'a network'} on {self.chip or 'a chip'} needs "
                    f"{field.name.replace('_', ' ')}, got {value}; add it to the chip's file, for a card that leaves "
                    "it out cannot be compared"
                )

    def rows(self) -> dict[str, str]:
        """What to print, by its name."""
        return {
            "network": self.network,
            "chip": self.chip,
            "batch": str(self.batch),
            "bits (inputs x weights)": ", ".join(self.bits),
            "multiply-accumulates of an input": f"{self.macs:,.0f}",
            "of them with nothing zero": f"{self.nonzero_macs:,.0f}",
            "off-chip accesses of an input": format_bytes(self.off_chip_bytes),
            "area": f"{self.area_mm2:g} mm²",
            "power, off-chip memory included": f"{format_number(self.power_milliwatts or 0.0)} mW",
            "throughput": f"{format_number(self.throughput or 0.0)} inputs/s",
            "latency of the batch": f"{format_number(self.latency_milliseconds or 0.0)} ms",
            "utilisation": f"{self.utilisation:.1%}",
        }


def benchmark_card(record: ChipRecord) -> BenchmarkCard:
    """The card of one simulation.

    Raises:
        TargetError: something mandatory is not known; it says what.
    """
    cost = record.cost
    layers = [layer.layer for layer in cost.layers]
    macs = sum(layer.macs for layer in layers)
    nonzero = sum(layer.macs * layer.density["I"] * layer.density["W"] for layer in layers)
    return BenchmarkCard(
        network=record.network,
        chip=cost.chip.name,
        batch=cost.batch,
        bits=tuple(dict.fromkeys(f"{layer.bits['I']} x {layer.bits['W']}" for layer in layers)),
        macs=macs / cost.batch,
        nonzero_macs=nonzero / cost.batch,
        off_chip_bytes=sum(off_chip_bits(layer, cost.chip) for layer in cost.layers) / 8 / cost.batch,
        area_mm2=cost.chip.area_mm2,
        power_milliwatts=1e-9 * cost.picojoules / cost.seconds,
        throughput=cost.batch / cost.seconds,
        latency_milliseconds=1e3 * cost.seconds,
        utilisation=cost.utilisation,
    )
