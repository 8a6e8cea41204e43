"""A language model in few bits: a character LSTM, its embedding, both matrices and its last layer quantised by `qnn`.

    python benchmarks/char_lstm.py [CASE ...] [--threads 2] [--list]

The text is Python's own help (pydoc_data.topics, every paragraph once), about 370,000 characters; its last tenth is the
test. The network is trained here in minutes. Rows are bits of weights / what layers read / gradients, trained further
from it, and the float network, trained for as long. Perplexity is that of the file in ONNX Runtime on windows of LENGTH
characters. Records results/char_lstm.json. Wanted: 4 bits within 10 % of the float network's perplexity.
"""

from __future__ import annotations

import copy
import hashlib
import os
import sys
from pathlib import Path
from pydoc_data import topics
from typing import Any

import numpy as np
import torch
from onnxruntime import InferenceSession
from records import Options, Rows, run_cases
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from dovetail.methods import Qnn
from dovetail.methods.method import Context
from dovetail.runtime import Artefact, Session, export_onnx, freeze

RESULTS = Path(__file__).parent / "results" / "char_lstm.json"
LENGTH, BATCH = 100, 32
STEPS, FURTHER = 2500, 800
ROWS = {"float": None, "4/4/32": (4, 4, 32), "4/4/6": (4, 4, 6), "4/32/32": (4, 32, 32), "2/4/32": (2, 4, 32)}


class CharacterLSTM(nn.Module):
    """Indices of characters (N, L) to the scores (N, L, characters) of what comes next."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.read = nn.Embedding(characters, 32)
        self.lstm = nn.LSTM(32, 160, batch_first=True)
        self.write = nn.Linear(160, characters)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.write(self.lstm(self.read(x))[0])
        return scores


def text() -> str:
    """Many topics repeat what others say: a paragraph that is learned must not be tested."""
    return "\n\n".join(dict.fromkeys("\n\n".join(topics.topics.values()).split("\n\n")))


def windows(codes: Tensor) -> Tensor:
    """(N, LENGTH + 1): each begins where the one before it ends."""
    return codes.unfold(0, LENGTH + 1, LENGTH)


def train(model: nn.Module, codes: Tensor, steps: int, learning_rate: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.1)
    for _ in range(steps):
        starts = torch.randint(len(codes) - LENGTH, (BATCH,), generator=generator)
        batch = codes[starts[:, None] + torch.arange(LENGTH + 1)]
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def perplexity(session: Session, codes: Tensor) -> float:
    lines = windows(codes)
    losses = [
        functional.cross_entropy(
            torch.from_numpy(session(batch[:, :-1].contiguous().numpy())).flatten(0, 1), batch[:, 1:].flatten()
        )
        * len(batch)
        for batch in lines.split(64)
    ]
    return float((torch.stack(losses).sum() / len(lines)).exp())


def trained(training: Tensor, characters: int, seed: int, file: Path) -> CharacterLSTM:
    """The float network, from the file if it is there."""
    torch.manual_seed(seed)
    model = CharacterLSTM(characters)
    if file.exists():
        model.load_state_dict(load_file(file))
    else:
        train(model, training, STEPS, 4e-3, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), file)
    return model


def run(name: str, options: Options) -> dict[str, Any]:
    seed, folder = options.seed, options.work
    book = text()
    alphabet = sorted(set(book))
    codes = torch.tensor([alphabet.index(character) for character in book])
    cut = len(codes) * 9 // 10
    training, test = codes[:cut], codes[cut:]
    original = trained(training, len(alphabet), seed, folder / "float.safetensors")
    model, example = copy.deepcopy(original), windows(test)[:2, :-1]
    bits = ROWS[name]
    if bits is not None:
        method = Qnn(weight_bits=bits[0], activation_bits=bits[1], gradient_bits=bits[2], keep_ends=False)
        context = Context(loss=lambda _: 0.0, example=example[:1], inputs=windows(training)[:200, :-1])
        model = method.apply(model, method.plan(model, context), 0, context)
    before = freeze(model.eval(), example)
    train(model.train(), training, FURTHER, 1e-3, seed + 1)
    artefact = freeze(model.eval(), example)
    artefact.save(folder / "model.dvt")
    session = Session(Artefact.load(folder / "model.dvt"))
    export_onnx(artefact, folder / "model.onnx")
    exported = InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    answers = exported.run(None, {exported.get_inputs()[0].name: example.numpy()})[0]
    return {
        "perplexity": perplexity(session, test),
        "perplexity_untrained": perplexity(Session(before), test),
        "file_bytes": (folder / "model.dvt").stat().st_size,
        "exported_differs_by": float(np.abs(answers - session(example.numpy())).max()),
        "text_sha256": hashlib.sha256(book.encode()).hexdigest(),
        "characters": len(book),
        "python": sys.version.split()[0],
    }


def table(results: Rows) -> Table:
    shown = Table(title="Character LSTM; bits of weights / what layers read / gradients")
    for column in ("row", "perplexity", "of float's", "before training further", "file, bytes"):
        shown.add_column(column, justify="left" if column == "row" else "right")
    floats = results.get("float", {}).get("perplexity", float("nan"))
    for name, row in sorted(results.items(), key=lambda item: item[1]["perplexity"]):
        shown.add_row(
            name, f"{row['perplexity']:.3f}", f"{row['perplexity'] / floats:.3f}", f"{row['perplexity_untrained']:.3f}",
            f"{row['file_bytes']}",
        )  # fmt: skip
    return shown


if __name__ == "__main__":
    run_cases(RESULTS, __doc__, list(ROWS), run, threads=os.cpu_count() or 1, table=table)
