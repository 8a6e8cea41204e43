"""The formats that make a tensor of smaller ones, each in a structure."""

from __future__ import annotations

from dovetail.formats.format import Format
from dovetail.formats.product import Product
from dovetail.formats.repeated import Repeated

COMPOSITES: tuple[type[Format], ...] = (Product, Repeated)
