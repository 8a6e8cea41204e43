"""Which layers cost the accuracy: what becomes of a network's outputs if one layer alone is treated."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from dovetail.data.noise import noise_like
from dovetail.methods.method import Context, Method, Plan
from dovetail.methods.watching import answers
from dovetail.workload.trace import trace

MEASURES = ("loss_rise", "output_error")
"""What a row of a plan may call what its layer alone costs."""

INPUTS = 250
"""On how many inputs outputs are compared, at most."""

MACS = 2e12
"""Multiply-accumulates that all comparisons may take: about a minute on one core."""

PASSES = 4
"""How often the inputs go through to treat a layer and compare, about."""


def planned(method: Method, model: nn.Module, context: Context) -> Plan:
    """The plan of `method`; where its rows can be carried out one by one, each with the `output_error` of that.

    Training makes up for some of it. Without inputs it is measured on noise.
    """
    plan = method.plan(model, context)
    if not method.separable or any(measure in row for row in plan.values() for measure in MEASURES):
        return plan
    few = replace(context, inputs=_few(model, len(plan), context))
    inputs = noise_like(context.example) if few.inputs is None else few.inputs
    wanted = answers(copy.deepcopy(model).eval(), inputs)
    with torch.random.fork_rng(devices=[]):
        return {
            name: row | {"output_error": relative_error(_alone(method, model, {name: row}, few), inputs, wanted)}
            for name, row in plan.items()
        }


def relative_error(model: nn.Module, inputs: Tensor, wanted: Tensor) -> float:
    """The squared error of the outputs, relative to those wanted."""
    return float((answers(model, inputs) - wanted).square().sum() / wanted.square().sum().clamp_min(1e-30))


def _alone(method: Method, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
    """A copy of the model with all rounds of this plan carried out."""
    trial = copy.deepcopy(model).eval()
    for stage in range(method.stages):
        plan = method.refine(trial, plan, stage, context)
        trial = method.apply(trial, plan, stage, context).eval()
    return trial


def _few(model: nn.Module, layers: int, context: Context) -> Tensor | None:
    if context.inputs is None:
        return None
    each = PASSES * layers * trace(model, context.example[:1]).macs
    return context.inputs[: max(1, min(INPUTS, int(MACS / max(1, each))))]
