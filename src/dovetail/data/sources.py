"""Finding a data set's files: in DOVETAIL_DATA, in the cache, or from their public source with a checksum."""

from __future__ import annotations

import os
import shutil
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from rich.progress import wrap_file

from dovetail.errors import DataError

TIMEOUT_SECONDS = 30


def cache_folder() -> Path:
    """Where downloads go: $XDG_CACHE_HOME/dovetail, or ~/.cache/dovetail."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dovetail"


def data_folders() -> list[Path]:
    """Where data sets are looked for, in order: DOVETAIL_DATA if it is set, then the cache."""
    given = os.environ.get("DOVETAIL_DATA")
    return [Path(given), cache_folder()] if given else [cache_folder()]


def find_folder(folder: str, files: tuple[str, ...]) -> Path | None:
    """The first place that has the data set's `folder` with all its `files`."""
    for parent in data_folders():
        if all((parent / folder / file).is_file() for file in files):
            return parent / folder
    return None


def missing(dataset: str, folder: str, files: tuple[str, ...], why: str) -> DataError:
    """The error that says what to put where."""
    place = data_folders()[0] / folder
    return DataError(
        f"data set {dataset} is not here and {why}: put {', '.join(files)} into {place}, "
        f"or set DOVETAIL_DATA to the folder that holds {folder}/"
    )


def offline() -> bool:
    """True if DOVETAIL_OFFLINE forbids downloads."""
    return os.environ.get("DOVETAIL_OFFLINE", "0") not in ("", "0")


def download(url: str, into: Path) -> Path:
    """The file at `url`, in the folder `into` under a temporary name, which is the caller's to check and rename.

    Raises OSError (URLError is one) if it cannot be fetched; nothing is left behind then.
    """
    into.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".download-", dir=into)
    try:
        with os.fdopen(handle, "wb") as target, urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            size = int(response.headers.get("Content-Length") or 0)
            with wrap_file(response, size, description=f"{url.rsplit('/', 1)[1]}", transient=True) as source:
                shutil.copyfileobj(source, target)
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)
