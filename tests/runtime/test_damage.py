"""Files that are damaged, foreign, newer or made to harm: one clear error, never another, never a wrong answer."""

import dataclasses
import json
import random
import re
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
import safetensors.numpy
from onnx import ModelProto, TensorProto

from dovetail.errors import ArtefactError
from dovetail.runtime import Artefact, Session, container, load
from dovetail.runtime.container import HEADER_LIMIT, compress, expand, pack, unpack

MEGABYTE = 1 << 20


def corrupt(file: bytes, rng: random.Random) -> bytes:
    """The file with one random corruption; sometimes, by chance, the very same file."""
    start, other = sorted(rng.randrange(len(file)) for _ in range(2))
    length = min(rng.choice((1, 2, 8, 64, 512)), other - start)
    match rng.randrange(7):
        case 0:
            flipped = bytearray(file)
            for _ in range(rng.choice((1, 1, 2, 10))):
                flipped[rng.randrange(len(file))] ^= 1 << rng.randrange(8)
            return bytes(flipped)
        case 1:
            return file[: rng.randrange(len(file))]
        case 2:
            return file[:start] + rng.randbytes(rng.choice((1, 2, 8, 100))) + file[start:]
        case 3:
            return file[:start] + file[start + length :]
        case 4:
            return file[: start + length] + file[start:]
        case 5:
            first, second = file[start : start + length], file[other : other + length]
            between = file[start + length : other]
            return file[:start] + second + between + first + file[other + length :]
        case _:
            return file[:start] + bytes(length) + file[start + length :]


def test_ten_thousand_random_corruptions_are_all_noticed(artefact: Artefact) -> None:
    file = artefact.to_bytes()
    rng = random.Random(0)
    tried = 0
    while tried < 10_000:
        # Half of them in the first bytes, where the header is.
        damaged = corrupt(file, rng) if rng.random() < 0.5 else corrupt(file[:400], rng) + file[400:]
        if damaged == file:
            continue
        tried += 1
        with pytest.raises(ArtefactError):
            Artefact.from_bytes(damaged)


def test_every_single_byte_counts(artefact: Artefact) -> None:
    file = artefact.to_bytes()
    for place in range(len(file)):
        with pytest.raises(ArtefactError):
            Artefact.from_bytes(file[:place] + bytes([file[place] ^ 1]) + file[place + 1 :])


class TestFile:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ArtefactError, match=r"none\.dvt does not exist"):
            load(tmp_path / "none.dvt")

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ArtefactError, match="cannot be read: Is a directory"):
            load(tmp_path)

    @pytest.mark.parametrize(
        "content",
        [b"", b"short", bytes(100), b"\x89PNG and so on", b"{}" * 100, b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 8 + b"{}"],
    )
    def test_foreign(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "a.dvt").write_bytes(content)
        with pytest.raises(ArtefactError, match=r"a\.dvt is not a Dovetail artefact"):
            load(tmp_path / "a.dvt")

    @pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
    def test_foreign_safetensors(self, metadata: dict[str, str] | None, tmp_path: Path) -> None:
        safetensors.numpy.save_file({"weight": np.zeros((3, 3), np.float32)}, tmp_path / "a.dvt", metadata)
        with pytest.raises(ArtefactError, match="is not a Dovetail artefact"):
            load(tmp_path / "a.dvt")

    def test_huge_foreign_file_is_not_read(self, tmp_path: Path) -> None:
        with (tmp_path / "a.dvt").open("wb") as file:
            file.truncate(1 << 40)
        with limited_memory(4 * MEGABYTE), pytest.raises(ArtefactError, match="is not a Dovetail artefact"):
            load(tmp_path / "a.dvt")

    def test_truncated(self, artefact: Artefact, tmp_path: Path) -> None:
        file = artefact.to_bytes()
        (tmp_path / "a.dvt").write_bytes(file[:-1])
        with pytest.raises(ArtefactError, match=f"altered: {len(file)} bytes expected, {len(file) - 1} found"):
            load(tmp_path / "a.dvt")

    def test_truncated_in_the_header(self, artefact: Artefact) -> None:
        with pytest.raises(ArtefactError, match="ends within its header"):
            Artefact.from_bytes(artefact.to_bytes()[:100])

    def test_newer(self, artefact: Artefact) -> None:
        newer = artefact.to_bytes().replace(b'"1 ', b'"2 ', 1)
        with pytest.raises(ArtefactError, match="has file version 2, this Dovetail reads versions up to 1; update"):
            Artefact.from_bytes(newer)

    @pytest.mark.parametrize(
        "stamp", ["", "0 ", "one", "1", "1 123", "9" * 5000, "1 " + "g" * 64, "\u0661 " + "0" * 64]
    )
    def test_strange_versions(self, stamp: str) -> None:
        header = json.dumps({"__metadata__": {"dovetail": stamp}}).encode()
        with pytest.raises(ArtefactError):
            Artefact.from_bytes(len(header).to_bytes(8, "little") + header)

    @pytest.mark.parametrize("nested", [b"[" * (HEADER_LIMIT - 1), b'{"a":' * 13_000])
    def test_deeply_nested_header(self, nested: bytes) -> None:
        header = b'{"a":' + nested
        with pytest.raises(ArtefactError):
            Artefact.from_bytes(len(header).to_bytes(8, "little") + header)

    def test_noise_between_the_parts_is_noticed_even_with_a_valid_checksum(self, artefact: Artefact) -> None:
        parts = unpack(artefact.to_bytes(), "it")
        with pytest.raises(ArtefactError, match="bytes of no tensor"):
            Artefact.from_bytes(pack(parts | {"data": bytes(parts["data"]) + b"!"}))


@contextmanager
def limited_memory(limit: int) -> Iterator[None]:
    """Fails if Python and numpy allocate more than `limit` bytes at a time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def hostile(artefact: Artefact, change: Callable[[Any], object]) -> bytes:
    """A file with a valid checksum whose manifest was changed."""
    parts = unpack(artefact.to_bytes(), "it")
    manifest = json.loads(expand(parts["manifest"], "it"))
    change(manifest)
    return pack(parts | {"manifest": compress(json.dumps(manifest).encode())})


def weight(manifest: Any) -> Any:
    return manifest["tensors"]["fc1.weight"]


HOSTILE: dict[str, Callable[[Any], object]] = {
    "no tensors": lambda m: m.pop("tensors"),
    "tensors as a list": lambda m: m.update(tensors=[]),
    "no header": lambda m: weight(m).pop("header"),
    "no arrays": lambda m: weight(m).update(arrays={}),
    "a missing array": lambda m: weight(m)["arrays"].pop("gaps"),
    "swapped arrays": lambda m: weight(m).update(arrays=dict(reversed(weight(m)["arrays"].items()))),
    "a huge array": lambda m: weight(m)["arrays"].update(gaps=["u1", [1 << 60]]),
    "a huge empty array": lambda m: weight(m)["arrays"].update(gaps=["u1", [0, 1 << 60]]),
    "an endless array": lambda m: weight(m)["arrays"].update(gaps=["u1", [10**400]]),
    "a negative array": lambda m: weight(m)["arrays"].update(gaps=["u1", [-1]]),
    "many dimensions": lambda m: weight(m)["arrays"].update(gaps=["u1", [1] * 100]),
    "a fractional size": lambda m: weight(m)["arrays"].update(gaps=["u1", [1.5]]),
    "objects": lambda m: weight(m)["arrays"].update(gaps=["O", [1]]),
    "an unknown type": lambda m: weight(m)["arrays"].update(gaps=["<u1", [1]]),
    "an unknown format": lambda m: weight(m)["header"].update(format="magic"),
    "no format": lambda m: weight(m)["header"].pop("format"),
    "a huge tensor": lambda m: weight(m)["header"].update(shape=[1 << 30, 1 << 30]),
    "a smaller tensor": lambda m: weight(m)["header"].update(shape=[2, 3]),
    "a negative tensor": lambda m: weight(m)["header"].update(shape=[-32, -144]),
    "a wrong index width": lambda m: weight(m)["header"].update(index_bits=60),
    "huge counts": lambda m: weight(m)["header"]["values"].update(shape=[1 << 31]),
    "a huge codebook": lambda m: weight(m)["header"]["values"].update(entries=1 << 40),
    "provenance as text": lambda m: m.update(provenance="mine"),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_manifest_uses_no_memory(artefact: Artefact, change: Callable[[Any], object]) -> None:
    file = hostile(artefact, change)
    with limited_memory(8 * MEGABYTE), pytest.raises(ArtefactError):
        Artefact.from_bytes(file)


@pytest.mark.parametrize("shape", [[144, 32], [32, 145], [1 << 15, 1 << 15], [4608]])
def test_a_tensor_that_does_not_fit_the_graph_is_refused(artefact: Artefact, shape: list[int]) -> None:
    file = hostile(artefact, lambda m: weight(m)["header"].update(shape=shape))
    with limited_memory(8 * MEGABYTE), pytest.raises(ArtefactError):
        Session(Artefact.from_bytes(file))


@pytest.mark.parametrize("part", ["graph", "manifest"])
class TestCompressedParts:
    def test_a_bomb_does_not_go_off(self, part: str, artefact: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
        bomb = pack(unpack(artefact.to_bytes(), "it") | {part: compress(bytes(16 * MEGABYTE))})
        assert len(bomb) < 10_000
        monkeypatch.setattr(container, "EXPANDED_LIMIT", MEGABYTE)
        with limited_memory(4 * MEGABYTE), pytest.raises(ArtefactError, match="is damaged"):
            Artefact.from_bytes(bomb)

    @pytest.mark.parametrize("content", [b"", b"noise" * 10, bytes(100)])
    def test_noise(self, part: str, content: bytes, artefact: Artefact) -> None:
        parts = unpack(artefact.to_bytes(), "it") | {part: content}
        with pytest.raises(ArtefactError):
            Artefact.from_bytes(pack(parts))

    def test_something_appended(self, part: str, artefact: Artefact) -> None:
        parts = unpack(artefact.to_bytes(), "it")
        with pytest.raises(ArtefactError):
            Artefact.from_bytes(pack(parts | {part: bytes(parts[part]) + b"more"}))


def test_too_large_a_graph_is_not_written() -> None:
    with pytest.raises(ArtefactError, match="keep large constants"):
        compress(bytes((1 << 26) + 1))


def test_a_deeply_nested_manifest_is_refused(artefact: Artefact) -> None:
    parts = unpack(artefact.to_bytes(), "it")
    with pytest.raises(ArtefactError, match="manifest"):
        Artefact.from_bytes(pack(parts | {"manifest": compress(b'{"provenance":' + b"[" * 10**6)}))


def refuses(artefact: Artefact, model: ModelProto | bytes, reason: str) -> None:
    graph = model if isinstance(model, bytes) else model.SerializeToString()
    again = Artefact.from_bytes(dataclasses.replace(artefact, graph=graph).to_bytes())
    with pytest.raises(ArtefactError, match=reason):
        Session(again)


class TestGraph:
    def test_no_model(self, artefact: Artefact) -> None:
        refuses(artefact, b"noise", "not an ONNX model")

    def test_names_that_are_no_text(self, artefact: Artefact) -> None:
        refuses(artefact, artefact.graph.replace(b"Relu", b"\xff\xfe\xfdu"), "do not fit together|does not take")

    def test_empty(self, artefact: Artefact) -> None:
        refuses(artefact, b"", "does not lead from one batch to another")

    def test_reference_to_another_file(self, artefact: Artefact) -> None:
        model = ModelProto.FromString(artefact.graph)
        tensor = model.graph.initializer.add(name="secret", data_type=TensorProto.FLOAT, dims=[1])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")
        refuses(artefact, model, "refers to another file")

    def test_weight_that_is_missing(self, artefact: Artefact) -> None:
        text = '<ir_version: 10, opset_import: ["" : 20]> g (float[n, 4] x) => (float[n, 4] y) { y = Add(x, other) }'
        refuses(artefact, onnx.parser.parse_model(text), "do not fit together")

    def test_unknown_operator(self, artefact: Artefact) -> None:
        text = '<ir_version: 10, opset_import: ["" : 20]> g (float[n, 4] x) => (float[n, 4] y) { y = Launch(x) }'
        refuses(artefact, onnx.parser.parse_model(text), "do not fit together .*Launch")

    def test_operator_that_is_not_onnx(self, artefact: Artefact) -> None:
        text = '<ir_version: 10, opset_import: ["me" : 1]> g (float[n, 4] x) => (float[n, 4] y) { y = me.X(x) }'
        refuses(artefact, onnx.parser.parse_model(text), "ONNX Runtime does not take")

    def test_two_inputs(self, artefact: Artefact) -> None:
        text = '<ir_version: 10, opset_import: ["" : 20]> g (float[n] x, float[n] z) => (float[n] y) { y = Add(x, z) }'
        refuses(artefact, onnx.parser.parse_model(text), "does not lead from one batch to another")


def test_errors_are_one_sentence(artefact: Artefact) -> None:
    for change in HOSTILE.values():
        with pytest.raises(ArtefactError) as caught:
            Artefact.from_bytes(hostile(artefact, change), "model.dvt")
        assert re.fullmatch(r"model\.dvt [^\n]*\.", str(caught.value))
