from dataclasses import replace

import pytest
import torch
from rich.progress import Progress
from torch import nn
from torch.nn.utils import parametrize

from dovetail.data import Dataset, MatchOutputs
from dovetail.errors import DataError
from dovetail.methods.constraint import Constraint
from dovetail.train import Training, TrainingError, load_state, score, train
from dovetail.train.loop import distillation_loss

FEW = Training(epochs=3, images=256, batch_size=64, learning_rate=0.05)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def trained(network, fashion):
    """The same network from the same start, trained with a seed."""
    start = weights(network)

    def run(training=FEW, seed=1, **options):
        network.load_state_dict(start)
        train(network, fashion, training, seed=seed, **options)
        return weights(network)

    return run


def test_it_learns(network, fashion):
    before = score(network, fashion, "validation")
    results = train(network, fashion, Training(epochs=3, learning_rate=0.1), seed=1)
    assert before < 0.3 and score(network, fashion, "validation") > 0.7
    assert [result.epoch for result in results] == [0, 1, 2]
    assert results[2].loss < results[0].loss and results[2].score > results[0].score


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw"}, {"precision": "bfloat16"}], ids=str)
def test_the_seed_decides_the_weights(trained, options):
    training = Training(epochs=2, images=256, batch_size=64, **options)
    first = trained(training)
    assert equal(first, trained(training))
    assert not equal(first, trained(training, seed=2))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch.compile's own
def test_a_compiled_network_learns_the_same(trained, network, tmp_path):
    network[4].p = 0.0  # compiled code draws other random numbers
    training = Training(epochs=2, images=128, batch_size=64, learning_rate=0.05)
    plain, compiled = trained(training), trained(replace(training, compiled=True), checkpoint=tmp_path / "c")
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-5)
    assert equal(compiled, trained(replace(training, compiled=True)))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_without_a_compiler_nothing_is_compiled(trained, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, str(tmp_path / "c++")))
    with pytest.raises(TrainingError, match=r"cannot be compiled \(.*C\+\+ compiler.*\); train it with compiled"):
        trained(replace(FEW, compiled=True))


def test_the_callers_randomness_and_modes_are_left_alone(network, fashion):
    network[1].eval()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(network, fashion, FEW, seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert network.training and not network[1].training


class Interrupt(Progress):
    """A progress bar at which someone presses Ctrl-C."""

    def __init__(self, steps: int) -> None:
        super().__init__(disable=True)
        self.left = steps

    def update(self, *arguments, **options) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("steps", [1, 6, 9])
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(trained, tmp_path, optimizer, steps):
    training = Training(epochs=3, images=256, batch_size=64, optimizer=optimizer)
    uninterrupted = trained(training)
    with pytest.raises(KeyboardInterrupt):
        trained(training, checkpoint=tmp_path / "c", progress=Interrupt(steps))
    assert equal(trained(training, checkpoint=tmp_path / "c"), uninterrupted)


def test_a_finished_run_is_not_repeated(trained, network, fashion, tmp_path):
    finished = trained(checkpoint=str(tmp_path / "c"))
    results = train(network, fashion, FEW, seed=1, checkpoint=tmp_path / "c", progress=Interrupt(1))
    assert len(results) == 3 and equal(weights(network), finished)


def test_another_runs_checkpoint_is_refused(trained, tmp_path):
    trained(checkpoint=tmp_path / "c")
    with pytest.raises(TrainingError, match="is of another run"):
        trained(seed=2, checkpoint=tmp_path / "c")


def test_a_damaged_checkpoint_is_refused(trained, tmp_path):
    trained(checkpoint=tmp_path / "c")
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:-1])
    with pytest.raises(TrainingError, match="damaged"):
        trained(checkpoint=tmp_path / "c")


class Recorder(Constraint):
    """Remembers its steps; keeps a counter in its state; pulls the weight to zero by a penalty."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.steps = []
        self.latent = None

    def forward(self, latent):
        self.latent = latent
        return latent

    def penalty(self):
        return 10 * self.latent.square().sum()

    def after_step(self, step):
        self.steps.append(step)
        self.count += 1


def test_constraints_are_heard(network, fashion, tmp_path):
    recorder = Recorder()
    before = network[5].weight.norm().item()
    parametrize.register_parametrization(network[5], "weight", recorder)
    train(network, fashion, FEW, seed=1, checkpoint=tmp_path / "c")
    assert [step.index for step in recorder.steps] == list(range(1, 13)) and recorder.steps[-1].progress == 1
    assert network[5].weight.norm() < before / 2
    assert load_state(tmp_path / "c")["model"]["5.parametrizations.weight.0.count"] == 12


def test_distillation_follows_the_teacher(network, fashion):
    torch.manual_seed(3)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.BatchNorm1d(10))
    start = weights(teacher)
    training = Training(epochs=3, learning_rate=0.1, distillation=1.0, temperature=2.0)
    agreement = same_task(fashion, MatchOutputs())
    before = score(network, agreement, original=teacher)
    train(network, fashion, training, seed=1, teacher=teacher)
    assert score(network, agreement, original=teacher) > before + 0.1
    assert equal(weights(teacher), start) and teacher.training


def same_task(dataset: Dataset, task) -> Dataset:
    return Dataset(**{**{name: getattr(dataset, name) for name in dataset.__dataclass_fields__}, "task": task})


def test_data_without_labels_teaches_by_the_original(network, fashion):
    torch.manual_seed(3)
    original = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    unlabelled = same_task(fashion, MatchOutputs())
    train(network, unlabelled, Training(epochs=3, learning_rate=0.1), seed=1, teacher=original)
    assert score(network, unlabelled, original=original) > 0.5
    with pytest.raises(DataError, match="needs the original network as its teacher"):
        train(network, unlabelled, FEW, seed=1)
    with pytest.raises(DataError, match="needs the original network"):
        score(network, unlabelled)


def test_distillation_without_a_teacher_is_refused(network, fashion):
    with pytest.raises(DataError, match="needs the original network as its teacher"):
        train(network, fashion, Training(distillation=0.5), seed=1)


def test_the_distillation_loss_is_zero_at_the_teacher_and_has_its_gradient_scale():
    taught = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.1, 0.0]])
    assert distillation_loss(taught, taught, 4.0) == pytest.approx(0, abs=1e-6)
    outputs = torch.zeros(2, 3, requires_grad=True)
    p, q = (taught / 4).softmax(1), torch.full((2, 3), 1 / 3)
    loss = distillation_loss(outputs, taught, 4.0)
    loss.backward()
    assert loss.item() == pytest.approx(16 * (p * (p / q).log()).sum().item() / 2, rel=1e-5)
    torch.testing.assert_close(outputs.grad, 4 * (q - p) / 2)  # T (q - p) / N


def test_steep_gradients_are_scaled_down(network, fashion):
    before, limit = weights(network), 0.01
    plain = Training(epochs=1, images=64, batch_size=64, momentum=0.0, weight_decay=0.0, learning_rate=1.0)
    train(network, fashion, replace(plain, max_gradient_norm=limit), seed=1)
    moved = [parameter - before[name] for name, parameter in network.named_parameters()]
    assert torch.cat([change.flatten() for change in moved]).norm().item() == pytest.approx(limit, rel=1e-3)


def test_a_run_that_diverges_says_so(network, fashion):
    with pytest.raises(TrainingError, match=r"loss of epoch \d+ is (nan|inf).*learning_rate, which is 1e\+20"):
        train(network, fashion, Training(epochs=3, images=512, learning_rate=1e20, schedule="constant"), seed=1)


def test_progress_reaches_its_end(network, fashion):
    with Progress(disable=True) as progress:
        train(network, fashion, FEW, seed=1, progress=progress)
    (task,) = progress.tasks
    assert task.finished and task.total == 12 and task.description == "training, epoch 3 of 3"


def test_no_epochs_change_nothing(network, fashion):
    before = weights(network)
    assert train(network, fashion, Training(epochs=0), seed=1) == []
    assert equal(weights(network), before)


def test_score_runs_a_module_in_eval_mode_and_any_callable(network, fashion):
    network.train()
    by_module = score(network, fashion, limit=300)
    assert network.training
    network.eval()
    assert score(lambda x: network(x), fashion, limit=300, batch_size=7) == by_module
    assert score(lambda x: torch.eye(10)[torch.arange(len(x)) % 10], fashion, limit=300) == 1.0
