"""This machine: its processor, its memory, and the folder for what would take time to find or fetch again."""

from __future__ import annotations

import ctypes
import os
import platform
import tempfile
from contextlib import suppress
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""


def processor() -> str:
    """The processor's name, family and model: under the name that clouds give, "AMD EPYC", there are several."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        first, _, _ = information.read_text().partition("\n\n")
        facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
        if "model name" in facts:
            return f"{facts['model name']}, family {facts.get('cpu family')}, model {facts.get('model')}"
    return platform.processor() or platform.machine()


def keep_freed_memory() -> None:
    """Let this process keep, for what it needs next, the memory that it frees; so far as the C library can be told.

    glibc gives every large block back to the system, and takes it as new, zeroed pages again: with activations of tens
    of megabytes that takes up to twice as long as the layers do, and a tenth of the time of training small networks.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def cache_folder() -> Path:
    """$DOVETAIL_CACHE, or $XDG_CACHE_HOME/dovetail, or ~/.cache/dovetail. It may not exist yet."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dovetail"
    return Path(os.environ.get("DOVETAIL_CACHE") or user)


def keep(file: Path, content: bytes) -> None:
    """Write a file of the cache, whole or not at all: others may be reading, or writing the same.

    Where nothing can be written that costs time later, and nothing else.
    """
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as part:
            try:
                part.write(content)
                part.flush()
                os.replace(part.name, file)
            except OSError:
                os.unlink(part.name)
