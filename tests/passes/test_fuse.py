"""Matches as layer calls: what goes in and comes out, which call is around which, and that a miss leaves the graph as it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captured import captured
from graphs import GraphBuilder, norm_call
from torch import Tensor, fx, nn
from torch.nn import functional as F

from fxkernels.passes.fuse import Composition, Matched, find_fused_calls
from fxkernels.passes.layer_call import CallSite, LayerCall
from fxkernels.passes.markers import erase_markers, find_marked_calls
from fxkernels.passes.match import Match
from fxkernels.passes.patterns import Layer, Pattern
from fxkernels.passes.plan import Decision, plan_rewrites
from fxkernels.passes.reference import reference_of
from fxkernels.passes.region import why_not_replaceable


class SwiGLU(nn.Module):
    def forward(self, gate: Any, up: Any, scale: Any = 1.0) -> Any:
        return F.silu(gate) * up


class GatedLinear(nn.Module):
    def forward(self, x: Any, gate: Any, up: Any) -> Any:
        return F.silu(F.linear(x, gate)) * F.linear(x, up)


class AddNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = Layer("RMSNorm")

    def forward(self, hidden_states: Any, residual: Any) -> Any:
        residual = residual + hidden_states
        return self.norm(residual), residual


def composition(module: nn.Module, *parameters: str, **defaults: Any) -> Composition:
    name = type(module).__name__

    def site(match: Match) -> CallSite:
        return CallSite(path=name, layer_name=name, layer=name)

    return Composition(name, (Pattern.of(module),), {**dict.fromkeys(parameters), **defaults}, site)


def found(
    graph: fx.Graph, *compositions: Composition, calls: tuple[LayerCall, ...] = ()
) -> tuple[tuple[LayerCall, ...], tuple[Matched, ...]]:
    return find_fused_calls(graph, calls, compositions, Counter())


def mlp(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(F.linear(x, gate)) * F.linear(x, up)


ARGS = torch.randn(2, 4), torch.randn(8, 4), torch.randn(8, 4)


def test_a_match_is_a_call_with_its_arguments_region_and_outputs() -> None:
    module = captured(mlp, *ARGS)
    (call,), matched = found(module.graph, composition(SwiGLU(), "gate", "up", scale=1.0))
    assert (call.key, [getattr(each, "name", each) for each in call.args]) == ("SwiGLU#0", ["linear", "linear_1", 1.0])
    assert ([node.name for node in call.region], [node.name for node in call.outputs]) == (["silu", "mul"], ["mul"])
    assert [(each.layer_name, each.count, each.near_miss) for each in matched] == [("SwiGLU", 1, None)]


def test_its_region_computes_what_the_graph_computes() -> None:
    module = captured(mlp, *ARGS)
    (call,), _ = found(module.graph, composition(GatedLinear(), "x", "gate", "up"))
    assert why_not_replaceable(call) is None
    order = {"x": ARGS[0], "gate": ARGS[1], "up": ARGS[2]}
    inputs = [order[node.name.strip("l_")] for node in call.marked_inputs]
    torch.testing.assert_close(reference_of(call, module)(*inputs)[0], mlp(*ARGS), rtol=0, atol=0)


def test_matches_of_one_composition_are_numbered() -> None:
    def twice(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
        return mlp(mlp(x, gate, up), gate, up)

    module = captured(twice, torch.randn(2, 4), torch.randn(4, 4), torch.randn(4, 4))
    calls, _ = found(module.graph, composition(SwiGLU(), "gate", "up"))
    assert [call.key for call in calls] == ["SwiGLU#0", "SwiGLU#1"]


def test_of_two_compositions_the_larger_one_is_around_the_smaller() -> None:
    module = captured(mlp, *ARGS)
    calls, _ = found(module.graph, composition(SwiGLU(), "gate", "up"), composition(GatedLinear(), "x", "gate", "up"))
    assert [(call.site.path, call.parent and call.parent.site.path) for call in calls] == [("GatedLinear", None), ("SwiGLU", "GatedLinear")]


def test_of_two_compositions_with_the_same_operations_the_first_is_around() -> None:
    class Same(SwiGLU):
        pass

    module = captured(mlp, *ARGS)
    calls, _ = found(module.graph, composition(Same(), "gate", "up"), composition(SwiGLU(), "gate", "up"))
    assert [(call.site.path, call.parent and call.parent.site.path) for call in calls] == [("Same", None), ("SwiGLU", "Same")]


def normed(build: GraphBuilder) -> fx.GraphModule:
    x, y, weight = build.tensor("x", 2, 8), build.tensor("y", 2, 8), build.tensor("weight", 8)
    total = build(torch.add, x, y)
    return build.module(norm_call(build, "norm", total, weight), total)


def test_an_atom_is_inside_and_its_tensors_are_the_calls() -> None:
    module = normed(GraphBuilder())
    marked = find_marked_calls(module.graph)
    erase_markers(module.graph)
    calls, _ = found(module.graph, composition(AddNorm(), "hidden_states", "residual"), calls=marked)
    outer, inner = calls
    assert (outer.site.path, inner.site.path, inner.parent) == ("AddNorm", "norm", outer)
    assert {name: node.name for name, node in outer.tensors.items()} == {"norm.weight": "weight"}
    assert outer.inside == {*inner.region, inner.args[0]}


def test_a_composition_inside_an_annotated_call_has_it_around() -> None:
    build = GraphBuilder()
    gate, up = build.tensor("gate", 2, 8), build.tensor("up", 2, 8)
    with build.layer("mlp", gate, up) as layer:
        layer.returns(build.method("tanh", build(torch.mul, build(F.silu, gate), up)))
    module = build.module(layer.output)
    marked = find_marked_calls(module.graph)
    erase_markers(module.graph)
    calls, _ = found(module.graph, composition(SwiGLU(), "gate", "up"), calls=marked)
    assert [(call.site.path, call.parent and call.parent.site.path) for call in calls] == [("mlp", None), ("SwiGLU", "mlp")]


def test_what_is_found_nowhere_says_how_far_it_got_and_leaves_the_calls_as_they_are() -> None:
    module = captured(lambda x, gate, up: F.silu(F.linear(x, gate)) * F.linear(x, up, gate[:, 0]), *ARGS)
    calls, (matched,) = found(module.graph, composition(GatedLinear(), "x", "gate", "up"))
    assert (calls, matched.count, matched.near_miss is not None) == ((), 0, True)


def test_calls_that_miss_leave_the_graph_bit_for_bit() -> None:
    module = captured(mlp, *ARGS)
    before = module.code
    calls, _ = found(module.graph, composition(SwiGLU(), "gate", "up"), composition(GatedLinear(), "x", "gate", "up"))
    plan_rewrites(calls, lambda call, conflict: Decision("missed"))
    module.recompile()
    assert module.code == before


class SumOfSine(nn.Module):
    def forward(self, x: Any, y: Any) -> Any:
        return x.sin() + y


class DoubledSum(nn.Module):
    def forward(self, x: Any, y: Any) -> Any:
        return (x.sin() + y) * 2


def doubled(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    sine, other = x.sin(), y.cos()
    sine.add_(y)
    return sine * 2, other


def seen(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    sine, other = x.sin(), y.cos()
    return sine.add_(y), other


@pytest.mark.parametrize(
    ("module", "function", "code"), [(DoubledSum(), doubled, None), (SumOfSine(), doubled, "escape"), (SumOfSine(), seen, "mutation")]
)
def test_a_write_into_memory_of_its_own_moves_with_the_call_and_one_that_is_seen_outside_does_not(
    module: nn.Module, function: Callable[..., Any], code: str | None
) -> None:
    (call,), _ = found(captured(function, torch.randn(3), torch.randn(3)).graph, composition(module, "x", "y"))
    assert [node.name for node in call.between] == ["other"]
    assert getattr(why_not_replaceable(call), "code", None) == code
