"""The record of one simulation: a network on a chip, as JSON. Tables and pages of chips read nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from dovetail.errors import DovetailError
from dovetail.hardware.cost import ChipCost, Objective

RECORD_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ChipRecord:
    """What `simulate` found for `network`.

    `densities` says in words how the zeros of weights and activations were found, `command` repeats the simulation.
    """

    network: str
    cost: ChipCost
    objective: Objective
    densities: str = ""
    command: str = ""
    version: int = field(default=RECORD_VERSION)

    def to_json(self) -> bytes:
        """This record as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2)

    @classmethod
    def from_json(cls, text: bytes | str) -> ChipRecord:
        """The record that `to_json` wrote.

        Raises:
            DovetailError: it is no record of a simulation, or one of another version.
        """
        try:
            record = msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError as error:
            raise DovetailError(f"This is not a record that `dovetail simulate` wrote: {error}") from error
        if record.version != RECORD_VERSION:
            raise DovetailError(f"This record has version {record.version}, this program reads {RECORD_VERSION}")
        return record
