"""Cutting a plan where the engine lacks an operator: stages that run one after the other, natively or elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dovetail.runtime.engine.layers import Layer
from dovetail.runtime.engine.planner import Foreign, Plan

Member = Layer | Foreign


@dataclass
class Stage:
    """Members in order, all native or all foreign; the values that it gets from before, and those needed after it."""

    members: list[Member]
    inputs: list[str]
    outputs: list[str]

    @property
    def native(self) -> bool:
        return isinstance(self.members[0], Layer)


def cut_stages(plan: Plan) -> list[Stage]:
    """As few stages as there can be if each takes all that it can."""
    given = {value.name for value in plan.network.inputs} | plan.network.constants.keys()
    groups: list[list[Member]] = []
    waiting: list[Member] = list(plan.layers)
    kind: type = Layer
    while waiting:
        taken: list[Member] = []
        left: list[Member] = []
        for member in waiting:
            if isinstance(member, kind) and given.issuperset(_reads(plan, member)):
                taken.append(member)
                given.update(_makes(plan, member))
            else:
                left.append(member)
        assert taken or kind is Layer, "a plan's members are in order"
        if taken:
            groups.append(taken)
        waiting, kind = left, Foreign if kind is Layer else Layer
    return [_stage(plan, group, groups) for group in groups]


def _stage(plan: Plan, group: list[Member], groups: list[list[Member]]) -> Stage:
    made = {name for member in group for name in _makes(plan, member)}
    read = dict.fromkeys(name for member in group for name in _reads(plan, member))
    elsewhere = {name for other in groups if other is not group for member in other for name in _reads(plan, member)}
    elsewhere |= {value.name for value in plan.network.outputs}
    inputs = [name for name in read if name not in made and name not in plan.network.constants]
    return Stage(group, inputs, sorted(made & elsewhere))


def _reads(plan: Plan, member: Member) -> Iterable[str]:
    return [plan.root(name) for name in member.reads] if isinstance(member, Layer) else member.reads


def _makes(plan: Plan, member: Member) -> list[str]:
    """Views of what a layer makes are made with it."""
    if isinstance(member, Foreign):
        return member.outputs
    return [member.output, *(name for name, view in plan.views.items() if view.source == member.output)]
