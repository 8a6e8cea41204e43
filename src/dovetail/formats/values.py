"""The formats that hold values, element for element."""

from __future__ import annotations

import numpy as np

from dovetail.errors import FormatError
from dovetail.formats.affine import Affine
from dovetail.formats.binary import Binary
from dovetail.formats.codebook import Codebook
from dovetail.formats.fixed_point import FixedPoint
from dovetail.formats.floats import Float
from dovetail.formats.format import Format, Source, ValueEncoder
from dovetail.formats.header import Header, read_choice
from dovetail.formats.power_of_two import PowerOfTwo
from dovetail.formats.ternary import Ternary

VALUES: tuple[type[Format], ...] = (Float, Affine, FixedPoint, Codebook, PowerOfTwo, Ternary, Binary)

_BY_NAME = {values.name: values for values in VALUES}


def read_values(header: Header, source: Source) -> Format:
    """The values format that `header` names, read from `source`."""
    return _BY_NAME[read_choice(header, "format", tuple(_BY_NAME))].read(header, source)


def require_zero(values: ValueEncoder, structure: str) -> None:
    """Raise FormatError unless `values` stores a zero exactly, as a structure that leaves zeros out needs."""
    stored = values(np.zeros(1, np.float32))
    # Binary holds zeros only where there is nothing else.
    if isinstance(stored, Binary) or stored.decode()[0] != 0:
        raise FormatError(
            f"{structure} leaves zeros out, so its values must hold zero exactly, and these do not: add 0 to the "
            "codebook, or use the dense structure"
        )
