"""Finding a data set's files: in DOVETAIL_DATA, in the cache, or at their public source."""

from __future__ import annotations

import os
import shutil
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from rich.console import Console
from rich.progress import wrap_file

from dovetail.errors import DataError
from dovetail.machine import cache_folder

TIMEOUT_SECONDS = 30


def data_folders() -> list[Path]:
    """Where data sets are looked for, in order: DOVETAIL_DATA if it is set, then the cache."""
    given = os.environ.get("DOVETAIL_DATA")
    return [Path(given), cache_folder()] if given else [cache_folder()]


def locate(dataset: str, folder: str, files: tuple[str, ...], fetch: Callable[[Path], None]) -> Path:
    """The first place that has `folder` with all its `files`; failing that, the cache, after `fetch` put them there.

    Raises DataError, which says what to put where, if nothing may or can be downloaded.
    """
    for parent in data_folders():
        if all((parent / folder / file).is_file() for file in files):
            return parent / folder
    if os.environ.get("DOVETAIL_OFFLINE", "0") not in ("", "0"):
        raise _missing(dataset, folder, files, "DOVETAIL_OFFLINE forbids to download it")
    try:
        fetch(cache_folder() / folder)
    except OSError as error:
        raise _missing(dataset, folder, files, f"it cannot be downloaded ({error})") from error
    return cache_folder() / folder


def download(url: str, into: Path) -> Path:
    """The file at `url`, in the folder `into` under a temporary name: the caller checks and renames or removes it.

    Raises OSError if it cannot be fetched or written; nothing is left behind then.
    """
    into.mkdir(parents=True, exist_ok=True)
    name = url.rsplit("/", 1)[1]
    part = into / f".{name}.part"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, part.open("wb") as target:
            size = int(response.headers.get("Content-Length") or 0)
            with wrap_file(response, size, description=name, console=Console(stderr=True), transient=True) as source:
                shutil.copyfileobj(source, target)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, HTTPException):
            raise OSError(f"{url}: {error!r}") from error
        raise
    return part


def _missing(dataset: str, folder: str, files: tuple[str, ...], why: str) -> DataError:
    return DataError(
        f"data set {dataset} is not here and {why}: put {', '.join(files)} into {data_folders()[0] / folder}, "
        f"or set DOVETAIL_DATA to a folder that holds {folder}/ with these files"
    )
