"""Writing a file at once or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from dovetail.errors import ArtefactError


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to a temporary file beside `path`, then rename it, so that no reader ever sees half a file.

    Raises ArtefactError if the folder does not exist, the disk is full, ...; what was at `path` then still is.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ArtefactError(f"{path} cannot be written: {error.strerror or error}.") from None
