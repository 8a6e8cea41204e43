"""The outside of a .dvt file: a safetensors file of three byte strings, with a version and a checksum.

    length of the header     8 bytes, little-endian
    header                   JSON: {"__metadata__": {"dovetail": "VERSION SHA256"}, "data": ..., "graph": ..., ...}
    data, graph, manifest    as the header says

The SHA-256 is taken over the whole file with its own 64 digits set to "0". The header is canonical: it is fixed by the
three lengths and the digest, so no byte of the file can differ without being noticed.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
from collections.abc import Mapping

import msgspec

from dovetail.errors import ArtefactError

VERSION = 1
ENTRIES = ("data", "graph", "manifest")
HEADER_LIMIT = 1 << 16
"""Bytes of header that are looked at; ours has about 300."""
EXPANDED_LIMIT = 1 << 26
"""Bytes that a compressed part may expand to."""
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What reading JSON that is damaged or made to harm can raise."""

_NO_DIGEST = "0" * 64
_FILTERS = [
    {"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 20, "lc": 0, "lp": 0, "pb": 0}
]
"""For graphs of a few kilobytes this is 10 to 36 % smaller than zlib (docs/runtime.md)."""


class _Metadata(msgspec.Struct):
    dovetail: str


class _Identity(msgspec.Struct):
    metadata: _Metadata = msgspec.field(name="__metadata__")


class _Entry(msgspec.Struct):
    data_offsets: tuple[int, int]


class _Header(msgspec.Struct):
    data: _Entry
    graph: _Entry
    manifest: _Entry


def pack(parts: Mapping[str, bytes]) -> bytes:
    """The whole file that holds `parts`, which has the keys ENTRIES."""
    blank = _prefix({name: len(parts[name]) for name in ENTRIES}, _NO_DIGEST)
    content = b"".join(parts[name] for name in ENTRIES)
    digest = hashlib.sha256(blank + content).hexdigest()
    return blank.replace(_NO_DIGEST.encode(), digest.encode(), 1) + content


def unpack(file: bytes, name: str) -> dict[str, memoryview]:
    """The parts of the file, in its own memory; `name` is what errors call it.

    Raises ArtefactError on anything that `pack` did not write.
    """
    header = read_header(file[: 8 + HEADER_LIMIT], name)
    digest = _check_version(header, name)
    try:
        entries = msgspec.json.decode(header, type=_Header)
    except UNREADABLE:
        raise _damaged(name) from None
    ends = [getattr(entries, entry).data_offsets[1] for entry in ENTRIES]
    start = 8 + len(header)
    if len(file) != start + ends[-1]:
        raise ArtefactError(
            f"{name} is incomplete or was altered: {start + ends[-1]} bytes expected, {len(file)} found; copy it again."
        )
    place = file.index(digest.encode(), 8)
    view = memoryview(file)
    sha = hashlib.sha256(view[:place])
    sha.update(_NO_DIGEST.encode())
    sha.update(view[place + len(digest) :])
    lengths = {entry: end - begin for entry, begin, end in zip(ENTRIES, [0, *ends], ends, strict=False)}
    if sha.hexdigest() != digest or file[:start] != _prefix(lengths, digest):
        raise _damaged(name)
    return {entry: view[start + end - lengths[entry] : start + end] for entry, end in zip(ENTRIES, ends, strict=True)}


def read_header(beginning: bytes, name: str) -> bytes:
    """The JSON header, given at least the file's first 8 + HEADER_LIMIT bytes, or all if it has fewer.

    Raises ArtefactError if the file cannot be an artefact, so that a huge foreign file need not be read to say so.
    """
    length = int.from_bytes(beginning[:8], "little")
    if len(beginning) < 8 or length > HEADER_LIMIT or beginning[8:9] != b"{":
        raise _foreign(name)
    header = beginning[8 : 8 + length]
    if len(header) < length:
        raise ArtefactError(f"{name} is incomplete: it ends within its header; copy it again.")
    try:
        msgspec.json.decode(header, type=_Identity)
    except UNREADABLE:
        raise _foreign(name) from None
    return header


def compress(part: bytes) -> bytes:
    """A small part, compressed (raw LZMA with the parameters of this file version)."""
    if len(part) > EXPANDED_LIMIT:
        raise ArtefactError(
            f"A network's graph and its description may have {EXPANDED_LIMIT} bytes, this one has {len(part)}; "
            "keep large constants of the network in buffers."
        )
    return lzma.compress(part, lzma.FORMAT_RAW, filters=_FILTERS)


def expand(part: bytes | memoryview, name: str) -> bytes:
    """The inverse of `compress`, which never expands to more than EXPANDED_LIMIT bytes."""
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS)
    try:
        expanded = decompressor.decompress(part, max_length=EXPANDED_LIMIT)
    except (lzma.LZMAError, EOFError):
        raise _damaged(name) from None
    if not decompressor.eof or decompressor.unused_data:
        raise _damaged(name)
    return expanded


def _prefix(lengths: Mapping[str, int], digest: str) -> bytes:
    header: dict[str, object] = {"__metadata__": {"dovetail": f"{VERSION} {digest}"}}
    begin = 0
    for name, length in lengths.items():
        header[name] = {"dtype": "U8", "shape": [length], "data_offsets": [begin, begin + length]}
        begin += length
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return len(encoded).to_bytes(8, "little") + encoded


def _check_version(header: bytes, name: str) -> str:
    """The digest, after making sure that the file is of our version."""
    stamp = msgspec.json.decode(header, type=_Identity).metadata.dovetail
    version = re.match(r"(\d{1,9})( |$)", stamp)
    if version and int(version[1]) > VERSION:
        raise ArtefactError(
            f"{name} has file version {version[1]}, this Dovetail reads versions up to {VERSION}; update Dovetail."
        )
    stated = re.fullmatch(rf"{VERSION} ([0-9a-f]{{64}})", stamp)
    if not stated or stated[1].encode() not in header:
        raise _damaged(name)
    return stated[1]


def _foreign(name: str) -> ArtefactError:
    return ArtefactError(f"{name} is not a Dovetail artefact (a .dvt file); make one with `dovetail compress`.")


def _damaged(name: str) -> ArtefactError:
    return ArtefactError(f"{name} is damaged: its content does not fit its checksum; copy it again or make it anew.")
