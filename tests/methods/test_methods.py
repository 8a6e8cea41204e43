"""What every compression method must do. A new method is tested here by being listed in METHODS."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.around import Around
from torch import nn

from dovetail.errors import ModelError, RecipeError
from dovetail.methods import METHODS, Method
from dovetail.methods.constraint import Step, bake, constraints, find, layouts
from dovetail.methods.factorize.escalate import HybridKernels
from dovetail.methods.factorize.smartdeal import PowersTimesBasis
from dovetail.methods.method import Context, nearest
from dovetail.methods.quantize.quantizer import Quantizer
from dovetail.recipe import ILLEGAL

PICTURES = torch.randn(16, 2, 9, 9, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(16) % 3


def network() -> nn.Module:
    torch.manual_seed(0)
    branch = Around(nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 12, 1))
    model = nn.Sequential(
        nn.Conv2d(2, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), branch, nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(12, 12, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(108, 3),
    )  # fmt: skip
    for norm in (model[1], branch[1]):  # as trained ones: no two channels alike, none at the kink of its ReLU
        nn.init.normal_(norm.weight, 1, 0.3)
        nn.init.normal_(norm.bias, 0, 0.3)
    return model


def loss(model: nn.Module) -> float:
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model.eval()(PICTURES), LABELS))


CONTEXT = Context(
    loss=loss, probe=loss, example=PICTURES[:1], inputs=PICTURES, original=network().eval(), latency=lambda m, x: 1e-6
)


def carried_out(method: Method, model: nn.Module) -> nn.Module:
    plan = method.plan(model, CONTEXT)
    for stage in range(method.stages):
        plan = method.refine(model, plan, stage, CONTEXT)
        model = method.apply(model, plan, stage, CONTEXT)
    return model


@pytest.fixture(params=METHODS.values(), ids=METHODS)
def method(request: pytest.FixtureRequest) -> Method:
    return request.param()


FOLDING = ("ptq", "dynamic_fixed_point")
"""Methods that fold each batch normalisation into the layer before it."""


def quantized(model: nn.Module) -> bool:
    return any(isinstance(module, Quantizer) for module in model.modules())


def takes_any(method: Method, model: nn.Module) -> bool:
    """Whether an earlier step has left it layers to take, and enough in them to meet its budget."""
    try:
        method.plan(model, CONTEXT)
    except (ModelError, RecipeError) as error:
        assert any(reason in str(error) for reason in ("no layer matches ['*']", "cannot be met", "none lies between"))
        return False
    return True


def same_tensor(model: nn.Module, name: str, tensor: torch.Tensor) -> bool:
    found = bake(model).state_dict().get(name)
    return found is not None and torch.equal(found, tensor)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_nearest_paths_begin_like_the_pattern() -> None:
    paths = ["layer3.0.conv1", "conv1", "layer2.0.conv1", "layer1.0.conv2"]
    assert nearest("layr1*", paths)[0] == "layer1.0.conv2"
    assert nearest("cnv1", paths)[0] == "conv1"
    assert nearest("encoder.*", ["0", "3", "7"]) == []


class TestEveryMethod:
    def test_planning_leaves_the_model_alone(self, method: Method) -> None:
        model, untouched = network(), network()
        method.plan(model, CONTEXT)
        assert same(model, untouched)

    def test_its_plan_is_json(self, method: Method) -> None:
        plan = method.plan(network(), CONTEXT)
        assert json.loads(json.dumps(plan)) == plan

    def test_is_deterministic(self, method: Method) -> None:
        assert same(carried_out(method, network()), carried_out(method, network()))

    def test_replaying_its_plan_rebuilds_the_structure(self, method: Method) -> None:
        model = network()
        plan = method.plan(model, CONTEXT)
        rebuilt = network()
        for stage in range(method.stages):
            plan = json.loads(json.dumps(method.refine(model, plan, stage, CONTEXT)))
            model = method.apply(model, plan, stage, CONTEXT)
            rebuilt = method.apply(rebuilt, plan, stage, replace(CONTEXT, rebuilding=True))
        for parameter in model.parameters():
            parameter.data.mul_(0.9)
        rebuilt.load_state_dict(model.state_dict())
        assert loss(rebuilt) == loss(model)

    def test_takes_the_layers_asked_for_and_no_others(self, method: Method) -> None:
        only = type(method)(layers=("3.0",))
        before, after = network(), carried_out(only, network())
        held = {name for name, _ in constraints(after)}
        changed = {name for name, tensor in before.named_parameters() if not same_tensor(after, name, tensor)}
        there = dict(after.named_modules())
        changed |= {
            f"{path}.weight"
            for path, module in before.named_modules()
            if hasattr(module, "weight") and type(there.get(path)) is not type(module)
        }
        assert any(name.startswith("3.0") for name in held | changed)
        # Whoever takes channels away from a layer takes them from the next one's weight too.
        allowed = ("3",) if method.kind == "shrink" else ("3.0", "3.1") if method.name in FOLDING else ("3.0",)
        assert all(name.startswith(allowed) for name in held | {name for name in changed if name.endswith("weight")})

    def test_says_when_no_layer_matches(self, method: Method) -> None:
        nowhere = type(method)(layers=("encoder.*",))
        with pytest.raises(ModelError, match=r"no layer matches \['encoder.\*'\]; .*'3.0'"):
            nowhere.plan(network(), CONTEXT)
        with pytest.raises(ModelError, match=r"none that it could take|no channels of this network"):
            method.plan(torch.nn.ReLU(), CONTEXT)

    def test_stored_weights_decode_to_the_effective_ones(self, method: Method) -> None:
        model = carried_out(method, network())
        effective = dict(bake(model).named_parameters())
        for name, layout in layouts(model).items():
            weight = effective[name].detach().numpy()
            assert np.array_equal(layout.encode(weight).decode(), weight)

    def test_baking_keeps_the_function_and_the_original(self, method: Method) -> None:
        model = carried_out(method, network())
        before = loss(model)
        plain = bake(model)
        assert loss(plain) == before and loss(model) == before
        assert not list(constraints(plain))
        if method.kind not in ("shrink", "rebuild") and method.name not in FOLDING:
            modules = dict(network().named_modules())
            kept = {name for name, _ in plain.named_parameters() if name.rpartition(".")[0] in modules}
            assert kept == set(dict(network().named_parameters()))

    def test_holds_through_momentum_and_weight_decay(self, method: Method) -> None:
        model = carried_out(method, network())
        before = {}
        if quantized(model) and method.kind == "rebuild":
            return  # its zeros may move, and nothing can have been pruned before it
        if quantized(model):  # it may round a weight to zero for a while; one that was pruned stays zero, if it has one
            model = carried_out(METHODS["magnitude"](), network())
            before = method.weights(model)
            model = carried_out(method, model)
        zero = {name: (weight == 0) & (before.get(name, weight) == 0) for name, weight in method.weights(model).items()}
        for name in zero:
            if (held := find(model, name, PowersTimesBasis)) is not None:
                # It prunes rows of coefficients; other zeros are sums that happen to be zero.
                zero[name] = held.slices.join((~held.mask).all(2, keepdim=True).expand(held.mask.shape))
                assert zero[name].any() or name != "9.weight"
            if (
                hybrid := find(model, name, HybridKernels)
            ) is not None:  # sums of whole kernels, of those that are left
                zero[name] = (~hybrid.kept).all(2)[..., None, None].expand(zero[name].shape)
        train_a_little(model)
        for name, weight in method.weights(model).items():
            assert not weight[zero[name]].any(), f"{name}: pruned weights came back"

    def test_its_gradient_is_that_of_its_forward(self, method: Method) -> None:
        model = carried_out(method, network()).double()
        if quantized(model):
            return  # an estimate, or the true gradient of what is learned beside the codes: tested with each quantizer
        if method.name == "weight_sharing":
            # Its rounding to float16 passes gradients straight through; finite differences must not see the steps.
            for _, constraint in constraints(model):
                constraint.table = lambda held=constraint: torch.cat([held.values.new_zeros(1), held.values])
        if method.name == "smartdeal":
            for _, constraint in constraints(model):
                constraint.rounded = lambda coefficients: coefficients  # nor the steps of its powers of two
        pictures = PICTURES.double()
        for parameter in model.parameters():
            parameter.grad = None
        objective = lambda: nn.functional.cross_entropy(model.eval()(pictures), LABELS)  # noqa: E731
        objective().backward()
        for parameter in model.parameters():
            if parameter.grad is None:
                continue
            flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
            for i in (0, flat.numel() // 2, flat.numel() - 1):
                at, step = flat[i].item(), 1e-8  # so short that no ReLU turns on or off within it
                with torch.no_grad():
                    flat[i] = at + step
                    above = objective()
                    flat[i] = at - step
                    below = objective()
                    flat[i] = at
                assert gradient[i].item() == pytest.approx(float((above - below) / (2 * step)), abs=1e-5)

    def test_works_on_top_of_every_method_that_may_come_before(self, method: Method) -> None:
        for first in METHODS.values():
            if (first.kind, method.kind) in ILLEGAL:
                continue
            before = carried_out(first(), network())
            if first.kind in ("shrink", "rebuild") and not takes_any(method, before):
                continue
            model = carried_out(method, before)
            effective = dict(bake(model).named_parameters())
            for name, layout in layouts(model).items():
                weight = effective[name].detach().numpy()
                assert np.array_equal(layout.encode(weight).decode(), weight), f"{first.name}, then {method.name}"

    def test_copies_are_independent(self, method: Method) -> None:
        model = carried_out(method, network())
        kept = copy.deepcopy(model)
        before = loss(kept)
        train_a_little(model)
        assert loss(kept) == before


def train_a_little(model: nn.Module) -> None:
    optimiser = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
    held = [constraint for _, constraint in constraints(model)]
    for index in range(5):
        optimiser.zero_grad()
        value = nn.functional.cross_entropy(model.train()(PICTURES), LABELS) + sum(c.penalty() for c in held)
        value.backward()
        optimiser.step()
        for constraint in held:
            constraint.after_step(Step(index + 1, 5))
