"""The cache: where it is, and that files in it are whole or not there."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from dovetail.machine import cache_folder, keep, processor


def test_the_cache_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("DOVETAIL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "dovetail"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "dovetail"


def test_files_are_kept_whole(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file"
    keep(file, b"one")
    keep(file, b"two")
    assert file.read_bytes() == b"two" and list(file.parent.iterdir()) == [file]


def test_what_cannot_be_kept_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    keep(tmp_path / "taken" / "file", b"lost")
    assert (tmp_path / "taken").read_text() == "a file"
    (tmp_path / "folder").mkdir()
    keep(tmp_path / "folder", b"lost")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "taken"]


def test_the_processor_has_a_name() -> None:
    assert processor()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have nothing to be told")
def test_memory_that_was_freed_is_not_taken_from_the_system_again() -> None:
    program = """
import resource, sys
import numpy as np
from dovetail.machine import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(2**24).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", program, word], check=True, capture_output=True, text=True).stdout)
        for word in ("kept", "given back")
    )
    assert kept < 10 <= given_back
