"""What an entropy coder is: a model fitted to a histogram, written before the payload that it codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import numpy as np

from dovetail.errors import FormatError
from dovetail.formats.bitstream import BitReader, BitWriter, Integers
from dovetail.formats.packing import Bytes, UInts, symbol_type


class Model(ABC):
    """A code for the symbols `first`..`last` of an alphabet. Where only one symbol occurs, its payload is empty."""

    name: ClassVar[str]
    first: int
    last: int

    @classmethod
    @abstractmethod
    def fit(cls, counts: Integers) -> Self:
        """The model of `cls` that stores a stream with this histogram, not all zero, in the fewest bits."""

    @abstractmethod
    def payload_bits(self, counts: Integers) -> float:
        """Bits of the payload of a stream with this histogram, the few that end it left out."""

    @abstractmethod
    def table_bits(self, symbol_bits: int) -> int:
        """Bits that `write` takes."""

    @abstractmethod
    def write(self, writer: BitWriter, symbol_bits: int) -> None:
        """Append the model to `writer`."""

    @classmethod
    @abstractmethod
    def read(cls, reader: BitReader, symbol_bits: int) -> Self:
        """The inverse of `write`. Raises FormatError on a damaged table."""

    @abstractmethod
    def encode(self, symbols: UInts) -> Bytes:
        """The payload; every symbol must have occurred in the histogram."""

    @abstractmethod
    def decode(self, payload: Bytes, count: int) -> UInts:
        """The inverse of `encode`. Raises FormatError if `payload` does not hold exactly `count` symbols."""


def constant(symbol: int, payload: Bytes, count: int) -> UInts:
    """A stream of one repeated symbol."""
    if payload.size:
        raise FormatError("a stream of one repeated symbol has no payload: the stored array is damaged")
    # A view of one number, so that a damaged count allocates nothing.
    return np.broadcast_to(symbol_type(symbol.bit_length()).type(symbol), (count,))
