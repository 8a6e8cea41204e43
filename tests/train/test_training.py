import pytest
import torch
from torch import nn

from dovetail.errors import RecipeError
from dovetail.train import Training


@pytest.mark.parametrize(
    "field, value",
    [
        ("epochs", -1),
        ("epochs", 1.5),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("optimizer", "adam"),
        ("momentum", 1.0),
        ("weight_decay", -1e-4),
        ("batch_size", 0),
        ("schedule", "linear"),
        ("warmup_epochs", -1),
        ("label_smoothing", 1.0),
        ("distillation", 1.1),
        ("temperature", 0.0),
        ("augment", "yes"),
        ("precision", "float16"),
        ("compiled", 1),
        ("max_gradient_norm", 0.0),
        ("max_gradient_norm", float("inf")),
        ("images", 0),
    ],
)
def test_a_value_out_of_range_is_named(field, value):
    with pytest.raises(RecipeError, match=rf"^Training\.{field} is .*, got {value!r}$"):
        Training(**{field: value})


def test_the_cosine_rises_over_the_warmup_and_falls_to_nearly_zero():
    training = Training(epochs=4, warmup_epochs=1, learning_rate=0.1)
    rates = [training.learning_rate_at(step, 10) for step in range(40)]
    assert rates[0] == pytest.approx(0.01) and rates[9] == rates[10] == pytest.approx(0.1)
    assert rates[25] == pytest.approx(0.05) and 0 < rates[39] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_constant_rate_is_constant():
    assert {Training(epochs=2, schedule="constant").learning_rate_at(step, 5) for step in range(10)} == {0.01}


@pytest.mark.parametrize("available, images, steps", [(1000, None, 7), (1000, 256, 2), (100, None, 1), (1000, 5000, 7)])
def test_an_incomplete_last_batch_is_left_out(available, images, steps):
    assert Training(images=images).steps_per_epoch(available) == steps


@pytest.mark.parametrize("name, kind", [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_biases_and_normalisation_do_not_decay(name, kind):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    optimizer = Training(optimizer=name, weight_decay=0.1).make_optimizer(model)
    assert isinstance(optimizer, kind)
    decay = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert len(decay) == 6 and all(value == (0.1 if p.ndim > 1 else 0) for p, value in decay.items())


def test_what_needs_no_gradient_is_left_alone():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    groups = Training().make_optimizer(model).param_groups
    assert [parameter for group in groups for parameter in group["params"]] == [model.weight]
