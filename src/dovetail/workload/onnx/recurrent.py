"""ONNX LSTM, GRU and RNN on torch's own, with the gates put into torch's order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dovetail.errors import ModelError

GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""Where torch's gates stand among ONNX's: LSTM iofc -> ifco, GRU zrh -> rzh."""
ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def _reordered(weight: Tensor, gates: Sequence[int]) -> Tensor:
    parts = weight.chunk(len(gates))
    return torch.cat([parts[gate] for gate in gates])


def _parameters(kind: str, W: Tensor, R: Tensor, B: Tensor | None) -> list[Tensor]:
    """torch's flat list: input weight, hidden weight and, if any, both biases, for each direction."""
    gates = GATES[kind]
    flat = []
    for direction in range(W.shape[0]):
        both = [W[direction], R[direction]]
        both += [] if B is None else list(B[direction].chunk(2))
        flat += [_reordered(weight, gates) for weight in both]
    return flat


def _check(
    kind: str, sequence_lens: Tensor | None, length: int, activations: Sequence[str] | None, clip: float
) -> None:
    wanted = ACTIVATIONS[kind]
    found = list(activations or wanted)
    if [name.lower() for name in found] != [name.lower() for name in wanted] * (len(found) // len(wanted)) or clip:
        raise ModelError(f"{kind} can be read with the activations {wanted} and without clip, got {found}, clip={clip}")
    if sequence_lens is not None and bool((sequence_lens != length).any()):
        raise ModelError(f"{kind} can be read for sequences of one length only; sort the batch by length")


def _state(state: Tensor | None, directions: int, batch: int, hidden: int, layout: int, like: Tensor) -> Tensor:
    """The initial state; one of a model frozen to a batch of 1 serves any batch."""
    if state is None:
        return like.new_zeros(directions, batch, hidden)
    return (state.transpose(0, 1) if layout else state).expand(directions, batch, hidden).contiguous()


def _outputs(Y: Tensor, states: Sequence[Tensor], directions: int, layout: int) -> tuple[Tensor, ...]:
    """ONNX has the directions on an axis of their own."""
    Y = Y.reshape(*Y.shape[:2], directions, -1)
    if layout:
        return Y.transpose(0, 1), *(state.transpose(0, 1) for state in states)
    return Y.transpose(1, 2), *states


def lstm(
    X: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    P: Tensor | None = None,
    activations: Sequence[str] | None = None,
    clip: float = 0.0,
    direction: str = "forward",
    hidden_size: int = 0,
    input_forget: int = 0,
    layout: int = 0,
) -> tuple[Tensor, ...]:
    """Y (length, directions, batch, hidden), last h, last c."""
    X = X.transpose(0, 1) if layout else X
    _check("LSTM", sequence_lens, X.shape[0], activations, clip)
    if input_forget or (P is not None and bool((P != 0).any())):
        raise ModelError("LSTM with peepholes or coupled gates cannot be read; use the plain LSTM")
    directions, hidden = W.shape[0], R.shape[-1]
    h, c = (_state(s, directions, X.shape[1], hidden, layout, X) for s in (initial_h, initial_c))
    backward = direction == "reverse"
    flat = _parameters("LSTM", W, R, B)
    Y, h, c = torch.lstm(
        X.flip(0) if backward else X, (h, c), flat, B is not None, 1, 0.0, False, directions == 2, False
    )
    return _outputs(Y.flip(0) if backward else Y, (h, c), directions, layout)


def gru(
    X: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    activations: Sequence[str] | None = None,
    clip: float = 0.0,
    direction: str = "forward",
    hidden_size: int = 0,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> tuple[Tensor, ...]:
    """Y (length, directions, batch, hidden), last h. torch has only the reset after the product; ours is a loop."""
    X = X.transpose(0, 1) if layout else X
    _check("GRU", sequence_lens, X.shape[0], activations, clip)
    directions, hidden = W.shape[0], R.shape[-1]
    h = _state(initial_h, directions, X.shape[1], hidden, layout, X)
    if not linear_before_reset:
        runs = []
        for i in range(directions):
            backward = direction == "reverse" or i == 1
            run = _reset_first(X.flip(0) if backward else X, W[i], R[i], None if B is None else B[i], h[i])
            runs.append(run.flip(0) if backward else run)
        last = [run[0] if direction == "reverse" or i == 1 else run[-1] for i, run in enumerate(runs)]
        return _outputs(torch.cat(runs, -1), (torch.stack(last),), directions, layout)
    backward = direction == "reverse"
    flat = _parameters("GRU", W, R, B)
    Y, h = torch.gru(X.flip(0) if backward else X, h, flat, B is not None, 1, 0.0, False, directions == 2, False)
    return _outputs(Y.flip(0) if backward else Y, (h,), directions, layout)


def _reset_first(X: Tensor, W: Tensor, R: Tensor, B: Tensor | None, h: Tensor) -> Tensor:
    """A GRU that resets the state before its product: the candidate is tanh(W x + R (r * h) + b)."""
    hidden = R.shape[-1]
    inputs = X @ W.T if B is None else X @ W.T + B.chunk(2)[0] + B.chunk(2)[1]
    outputs = []
    for step in inputs:
        z, r = torch.sigmoid(step[:, : 2 * hidden] + h @ R[: 2 * hidden].T).chunk(2, -1)
        candidate = torch.tanh(step[:, 2 * hidden :] + (r * h) @ R[2 * hidden :].T)
        h = (1 - z) * candidate + z * h
        outputs.append(h)
    return torch.stack(outputs)


def rnn(
    X: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    activations: Sequence[str] | None = None,
    clip: float = 0.0,
    direction: str = "forward",
    hidden_size: int = 0,
    layout: int = 0,
) -> tuple[Tensor, ...]:
    """Y (length, directions, batch, hidden), last h."""
    X = X.transpose(0, 1) if layout else X
    rectified = {name.lower() for name in activations or ["Tanh"]} == {"relu"}
    _check("RNN", sequence_lens, X.shape[0], None if rectified else activations, clip)
    directions, hidden = W.shape[0], R.shape[-1]
    h = _state(initial_h, directions, X.shape[1], hidden, layout, X)
    backward = direction == "reverse"
    run = torch.rnn_relu if rectified else torch.rnn_tanh
    flat = _parameters("RNN", W, R, B)
    Y, h = run(X.flip(0) if backward else X, h, flat, B is not None, 1, 0.0, False, directions == 2, False)
    return _outputs(Y.flip(0) if backward else Y, (h,), directions, layout)
