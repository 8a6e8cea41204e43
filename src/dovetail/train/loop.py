"""The training loop."""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from dovetail.data import Dataset
from dovetail.errors import DataError
from dovetail.methods.constraint import Constraint, Step, constraints
from dovetail.train.errors import TrainingError
from dovetail.train.placing import channels_last, placed
from dovetail.train.state import State, load_state, save_state
from dovetail.train.training import Training


@dataclass(frozen=True)
class EpochResult:
    """What one epoch did, counted from 0: means of loss and score over its training batches, and its wall time."""

    epoch: int
    loss: float
    score: float
    seconds: float


def train(
    model: nn.Module,
    dataset: Dataset,
    training: Training,
    *,
    seed: int,
    teacher: nn.Module | None = None,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> list[EpochResult]:
    """Train `model` in place on the training split; returns what each epoch did.

    The same seed gives the same weights, bit for bit, on the same machine with as many threads. `checkpoint` is written
    at the end of every epoch; if it is there already, training goes on from it and ends with the weights of a run that
    was never interrupted. Where `accelerate launch` started several processes, each takes its share of every batch
    (batch normalisation then sees the share alone). A GPU is used if there is one; the model is back where it was
    afterwards.

    Raises TrainingError if the loss is not finite, the checkpoint belongs to another run or the network cannot be
    compiled, DataError if a teacher is needed and missing or a batch has fewer images than there are processes.
    """
    accelerator = Accelerator()
    file = None if checkpoint is None else Path(checkpoint)
    device = accelerator.device
    with ExitStack() as stack:
        stack.enter_context(placed(model, training=True, device=device))
        stack.enter_context(placed(teacher, training=False, device=device))
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        stack.enter_context(torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True))
        optimizer = training.make_optimizer(model)
        held = tuple(constraint for _, constraint in constraints(model))
        parallel = accelerator.prepare_model(model)
        if training.compiled:
            parallel = torch.compile(parallel)
            stack.callback(torch.compiler.reset)  # of the code of one class it keeps eight networks, and no more
            stack.enter_context(_compiling())
        run = _Run(model, parallel, held, optimizer, dataset, training, seed, teacher, accelerator)
        run.check()
        history = run.resume(file)
        accelerator.wait_for_everyone()  # nobody writes the checkpoint before all have read it
        report = _Report(progress, run.steps, training.epochs, done=len(history))
        for epoch in range(len(history), training.epochs):
            history.append(run.epoch(epoch, report))
            if file is not None and accelerator.is_main_process:
                save_state(file, run.state(history))
        accelerator.wait_for_everyone()
    return history


@contextmanager
def _compiling() -> Iterator[None]:
    """What torch.compile has against a network, it says when that is run, and in many words."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch._dynamo.exc.TorchDynamoException):  # imported by torch.compile only: it is slow
            raise
        reason = str(error).partition("\n")[0]
        raise TrainingError(f"the network cannot be compiled ({reason}); train it with compiled = false") from error


@dataclass(frozen=True, eq=False)
class _Run:
    """What the epochs of one call of `train` share."""

    model: nn.Module
    parallel: nn.Module  # the same model, its gradients averaged over the processes
    constraints: tuple[Constraint, ...]
    optimizer: Optimizer
    dataset: Dataset
    training: Training
    seed: int
    teacher: nn.Module | None
    accelerator: Accelerator

    @property
    def steps(self) -> int:
        return self.training.steps_per_epoch(len(self.dataset.train))

    def check(self) -> None:
        """DataError if the data set does not fit the settings."""
        if self.teacher is None and (self.training.distillation > 0 or self.dataset.task.targets_from_original):
            raise DataError(f"training on {self.dataset.name} in this way needs the original network as its teacher")
        batch = min(self.training.batch_size, len(self.dataset.train))
        if batch < self.accelerator.num_processes:
            raise DataError(f"a batch of {batch} images cannot be shared by {self.accelerator.num_processes} processes")

    def epoch(self, epoch: int, report: _Report) -> EpochResult:
        """Train for one epoch. Its randomness depends on seed and epoch alone, so that a resumed run is exact."""
        started = time.perf_counter()
        torch.manual_seed(derive_seed(self.seed, epoch, self.accelerator.process_index))
        sums = torch.zeros(3, device=self.accelerator.device)  # of loss, score and images
        for index, (inputs, targets, weight) in enumerate(self._batches(epoch), epoch * self.steps):
            for group in self.optimizer.param_groups:
                group["lr"] = self.training.learning_rate_at(index, self.steps)
            outputs, targets, loss = self._forward(inputs, targets)
            self.optimizer.zero_grad()
            (loss * weight + self._penalty()).backward()  # type: ignore[no-untyped-call]
            if self.training.max_gradient_norm is not None:
                self.accelerator.clip_grad_norm_(self.model.parameters(), self.training.max_gradient_norm)
            self.optimizer.step()
            for constraint in self.constraints:
                constraint.after_step(Step(index + 1, self.steps * self.training.epochs))
            with torch.no_grad():
                score = self.dataset.task.score(outputs, targets).sum()
                sums += torch.stack([loss * len(inputs), score, torch.full_like(loss, len(inputs))])
            report.advance(epoch)
        loss_sum, score_sum, images = self.accelerator.reduce(sums, "sum").tolist()
        if not math.isfinite(loss_sum):
            raise TrainingError(
                f"training diverged: the loss of epoch {epoch + 1} is {loss_sum}; "
                f"lower Training.learning_rate, which is {self.training.learning_rate}"
            )
        return EpochResult(epoch, loss_sum / images, score_sum / images, time.perf_counter() - started)

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, float]]:
        """This process's share of every batch, and what its mean loss weighs in the mean of the processes' losses."""
        training, device = self.training, self.accelerator.device
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        batches = self.dataset.batches(
            "train",
            training.batch_size,
            seed=derive_seed(self.seed, epoch),
            augment=training.augment,
            limit=training.images,
        )
        for inputs, targets in itertools.islice(batches, self.steps):
            mine = slice(rank, None, world)
            weight = len(inputs[mine]) * world / len(inputs)
            yield channels_last(inputs[mine]).to(device), targets[mine].to(device), weight

    def _forward(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The outputs, the targets (the teacher's outputs, if the task is to match those) and the mean loss."""
        training, task = self.training, self.dataset.task
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=training.precision == "bfloat16"):
            outputs = self.parallel(inputs).float()
            taught = None
            if self.teacher is not None and (training.distillation > 0 or task.targets_from_original):
                with torch.no_grad():
                    taught = self.teacher(inputs).float()
        if taught is not None and task.targets_from_original:
            targets = taught
        loss = task.loss(outputs, targets, label_smoothing=training.label_smoothing)
        if taught is not None and training.distillation > 0:
            soft = distillation_loss(outputs, taught, training.temperature)
            loss = (1 - training.distillation) * loss + training.distillation * soft
        return outputs, targets, loss

    def _penalty(self) -> Tensor:
        total = torch.zeros((), device=self.accelerator.device)
        for constraint in self.constraints:
            total = total + constraint.penalty()
        return total

    def state(self, history: list[EpochResult]) -> State:
        """Everything that the next epoch depends on."""
        moments = self.optimizer.state_dict()["state"]
        return {
            "run": self._identity(),
            "history": [asdict(result) for result in history],
            "model": dict(self.model.state_dict()),
            "optimizer": {str(index): value for index, value in moments.items()},
        }

    def resume(self, checkpoint: Path | None) -> list[EpochResult]:
        """Go back to the state in `checkpoint`, if there is one; returns what the epochs so far did."""
        if checkpoint is None or not checkpoint.exists():
            return []
        state = load_state(checkpoint)
        if state.get("run") != self._identity():
            raise TrainingError(
                f"checkpoint {checkpoint} is of another run (other settings, seed, data or network): "
                "delete it, or give this run another file"
            )
        self.model.load_state_dict(state["model"])
        moments = {int(index): value for index, value in state["optimizer"].items()}
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})
        return [EpochResult(**result) for result in state["history"]]

    def _identity(self) -> State:
        """What a checkpoint must agree on with the run that takes it up."""
        return {
            "training": asdict(self.training),
            "seed": self.seed,
            "data": [self.dataset.name, len(self.dataset.train)],
            "model": {name: list(tensor.shape) for name, tensor in self.model.state_dict().items()},
        }


class _Report:
    """A task on the progress bar, if there is one."""

    def __init__(self, progress: Progress | None, steps: int, epochs: int, done: int) -> None:
        self.progress, self.steps, self.epochs = progress, steps, epochs
        if progress is not None:
            self.task = progress.add_task("training", total=steps * epochs, completed=steps * done)

    def advance(self, epoch: int) -> None:
        if self.progress is not None:
            self.progress.update(self.task, advance=1, description=f"training, epoch {epoch + 1} of {self.epochs}")


def derive_seed(*parts: int) -> int:
    """A 63-bit seed that depends on all of `parts` and on their order."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def distillation_loss(outputs: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(taught / T) || softmax(outputs / T)) for outputs (N, K, ...): mean over N, sum over the rest.

    Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network. 2015. arXiv:1503.02531, section 2.
    """
    log_p = functional.log_softmax(taught / temperature, 1)
    log_q = functional.log_softmax(outputs / temperature, 1)
    return temperature**2 * functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
