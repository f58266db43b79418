"""Matches of patterns in graphs as Dynamo captures them, near misses, and what it costs."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captured import captured
from graphs import GraphBuilder, norm_call
from torch import Tensor, nn
from torch.nn import functional as F

from fxkernels.passes.markers import find_marked_calls
from fxkernels.passes.match import Match
from fxkernels.passes.matching import Matcher
from fxkernels.passes.near_miss import NearMiss
from fxkernels.passes.patterns import ANY, Layer, Pattern, one_of


def find(pattern: nn.Module, function: Callable[..., Any], *args: Any, dynamic: bool | None = None) -> tuple[Match, ...]:
    return Matcher(captured(function, *args, dynamic=dynamic).graph, ()).find([Pattern.of(pattern)])[0]


def bound(match: Match) -> dict[str, Any]:
    return {name: getattr(value, "name", value) for name, value in match.arguments.items()}


class SwiGLU(nn.Module):
    def forward(self, x: Any, gate: Any, up: Any) -> Any:
        return F.silu(F.linear(x, gate)) * F.linear(x, up)


W = torch.randn(8, 4)
V = torch.randn(8, 4)


@pytest.mark.parametrize(
    "written",
    [
        lambda x, gate, up: F.silu(F.linear(x, gate)) * F.linear(x, up),
        lambda x, gate, up: F.linear(x, up) * F.silu(F.linear(x, gate)),
        lambda x, gate, up: torch.mul(F.linear(x, up, None), F.silu(F.linear(x, gate), inplace=False)),
        lambda x, gate, up: F.silu(F.linear(x.contiguous(), gate).to(torch.float32)) * F.linear(x, up).view(2, 8),
    ],
)
def test_a_composition_is_found_in_each_spelling(written: Callable[..., Tensor]) -> None:
    (match,) = find(SwiGLU(), written, torch.randn(2, 4), W, V)
    assert {name: value for name, value in bound(match).items() if name != "x"} == {"gate": "l_gate_", "up": "l_up_"}


def test_views_that_change_nothing_belong_to_the_match() -> None:
    (match,) = find(SwiGLU(), lambda x, gate, up: F.silu(F.linear(x, gate).view(2, 8)) * F.linear(x, up), torch.randn(2, 4), W, V)
    assert sorted(node.name for node in match.operations if "view" in node.name) == ["view"]


@pytest.mark.parametrize(
    "written",
    [
        lambda x, gate, up: F.silu(F.linear(x, gate)) + F.linear(x, up),
        lambda x, gate, up: F.silu(F.linear(x, gate)) * F.linear(x + 1, up),
        lambda x, gate, up: F.silu(F.linear(x, gate)) * F.linear(x, up, torch.ones(8)),
        lambda x, gate, up: F.relu(F.linear(x, gate)) * F.linear(x, up),
        lambda x, gate, up: F.silu(F.linear(x, gate)).to(torch.float64) * F.linear(x, up).to(torch.float64),
    ],
)
def test_something_else_is_not_found(written: Callable[..., Tensor]) -> None:
    assert find(SwiGLU(), written, torch.randn(2, 4), W, V) == ()


def test_every_place_is_found_in_the_order_of_the_graph() -> None:
    def twice(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
        x = F.silu(F.linear(x, gate)) * F.linear(x, up)
        return F.silu(F.linear(x, gate)) * F.linear(x, up)

    matches = find(SwiGLU(), twice, torch.randn(2, 4), torch.randn(4, 4), torch.randn(4, 4))
    assert [match.outputs[0].name for match in matches] == ["x", "mul_1"]


def test_a_parameter_may_be_a_constant_and_a_default_counts_as_given() -> None:
    class Attention(nn.Module):
        def forward(self, q: Any, k: Any, v: Any, scale: Any, is_causal: Any) -> Any:
            return F.scaled_dot_product_attention(q, k, v, scale=scale, is_causal=is_causal)

    q = torch.randn(1, 2, 3, 4)
    (match,) = find(Attention(), lambda q: F.scaled_dot_product_attention(q, q, q, scale=0.5), q)
    assert bound(match) == {"q": "l_q_", "k": "l_q_", "v": "l_q_", "scale": 0.5, "is_causal": False}


def test_a_number_in_a_sum_is_the_parameter_and_not_the_operation_whichever_of_the_two_comes_first() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Any, weight: Any, offset: Any) -> Any:
            return x * (offset + one_of(weight.float(), weight))

    for written in (lambda x, w: x * (1.0 + w.float()), lambda x, w: x * w.float().add(1.0), lambda x, w: x * (w.float() + 1.0)):
        (match,) = find(Scaled(), written, torch.randn(4), torch.randn(4, dtype=torch.bfloat16))
        assert bound(match)["offset"] == 1.0


def test_one_value_in_two_places_has_to_be_one_value() -> None:
    class Squared(nn.Module):
        def forward(self, x: Any) -> Any:
            return x * x + 1

    x = torch.randn(3)
    assert len(find(Squared(), lambda x, y: x * x + 1, x, x.clone())) == 1
    assert find(Squared(), lambda x, y: x * y + 1, x, x.clone()) == ()


def test_alternatives_are_tried_in_their_order_and_an_optional_part_may_be_missing() -> None:
    class Repeated(nn.Module):
        def forward(self, q: Any, k: Any) -> Any:
            k = one_of(k[:, :, None].expand(ANY).reshape(ANY), k.repeat_interleave(ANY, dim=1), k)
            return torch.matmul(q, one_of(k.transpose(2, 3), k.mT))

    q, k = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 3, 8)
    spellings: list[Callable[..., Tensor]] = [
        lambda q, k: q @ k[:, :, None, :, :].expand(1, 2, 2, 3, 8).reshape(1, 4, 3, 8).transpose(2, 3),
        lambda q, k: torch.matmul(q, k.repeat_interleave(2, 1).transpose(-1, -2)),
    ]
    assert [bound(find(Repeated(), spelling, q, k)[0])["k"] for spelling in spellings] == ["l_k_", "l_k_"]
    assert bound(find(Repeated(), lambda q, k: q @ k.transpose(2, 3), q, q)[0])["k"] == "l_k_"


def test_further_outputs_are_found_forward_from_what_is_known() -> None:
    class Projections(nn.Module):
        def forward(self, x: Any, q: Any, k: Any) -> Any:
            return F.linear(x, q).relu(), F.linear(x, k).tanh()

    def model(x: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return F.linear(x, k).tanh(), F.linear(x + 1, q).tanh(), F.linear(x, q).relu()

    (match,) = find(Projections(), model, torch.randn(2, 4), W, V)
    assert (bound(match), [node.name for node in match.outputs]) == ({"x": "l_x_", "q": "l_q_", "k": "l_k_"}, ["relu", "tanh"])


def test_a_value_that_is_taken_apart_and_used_nowhere_belongs_to_the_match() -> None:
    class Centred(nn.Module):
        def forward(self, x: Any) -> Any:
            return x - torch.max(x, dim=ANY, keepdim=True)[0]

    module = captured(lambda x: x - x.max(dim=-1, keepdim=True).values, torch.randn(2, 3))
    (largest,) = module.graph.find_nodes(op="call_method", target="max")
    with module.graph.inserting_after(largest):
        unused = module.graph.call_function(operator.getitem, (largest, 1))
    (match,), _ = Matcher(module.graph, ()).find([Pattern.of(Centred())])
    assert {unused, largest} < match.operations


def test_an_optional_last_operation_makes_one_match_and_not_two() -> None:
    class Rounded(nn.Module):
        def forward(self, x: Any, y: Any) -> Any:
            return one_of((x * y).to(ANY), x * y)

    (match,) = find(Rounded(), lambda x, y: (x * y).to(torch.bfloat16), torch.randn(4), torch.randn(4))
    assert len(match.operations) == 2
    assert len(find(Rounded(), lambda x, y: (x * y) * y, torch.randn(4), torch.randn(4))) == 2


class SumOfSine(nn.Module):
    def forward(self, x: Any, y: Any) -> Any:
        return (x.sin() + y) * 2


class SineInPlaces(nn.Module):
    def forward(self, x: Any, places: Any) -> Any:
        return torch.index_put(torch.empty_like(x), (places,), x.sin()) * 2


def added_in_place(x: Tensor, y: Tensor) -> Tensor:
    sine = x.sin()
    sine.add_(y)
    return sine * 2


def read_before_it_is_written(x: Tensor, y: Tensor) -> Tensor:
    sine = x.sin()
    doubled = sine * 2
    sine.add_(y)
    return doubled + sine


def stored_in_places(x: Tensor, places: Tensor) -> Tensor:
    out = torch.empty_like(x)
    out[places] = x.sin()
    return out * 2


def test_a_value_that_was_written_into_is_what_was_written_and_the_write_belongs_to_the_match() -> None:
    (match,) = find(SumOfSine(), added_in_place, torch.randn(3), torch.randn(3))
    assert {node.name for node in match.operations} == {"sine", "add_", "mul"}
    assert find(SumOfSine(), read_before_it_is_written, torch.randn(3), torch.randn(3)) == ()
    (match,) = find(SineInPlaces(), stored_in_places, torch.randn(3), torch.tensor([2, 0, 1]))
    assert len(match.operations) == 4


def test_dynamic_sizes_do_not_matter() -> None:
    class Folded(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.view(ANY).transpose(1, 2)

    assert len(find(Folded(), lambda x: x.view(*x.shape[:-1], -1, 2).transpose(-3, -2), torch.randn(2, 3, 4), dynamic=True)) == 1


class AddNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = Layer("RMSNorm")

    def forward(self, hidden_states: Any, residual: Any) -> Any:
        residual = residual + hidden_states
        return self.norm(residual), residual


def test_an_atom_is_a_layer_call_of_its_name() -> None:
    build = GraphBuilder()
    x, y, weight = build.tensor("x", 2, 8), build.tensor("y", 2, 8), build.tensor("weight", 8)
    total = build(torch.add, x, y)
    graph = build.finish(norm_call(build, "norm", total, weight), total)
    calls = find_marked_calls(graph)
    (match,), near = Matcher(graph, calls).find([Pattern.of(AddNorm())])
    assert (match.layers["norm"], near) == (calls[0], None)
    assert {value.name for value in match.arguments.values()} == {"x", "y"}
    assert [node.name for node in match.operations] == ["add"]


def test_a_layer_call_of_another_name_is_none() -> None:
    build = GraphBuilder()
    x, y = build.tensor("x", 2, 8), build.tensor("y", 2, 8)
    total = build(torch.add, x, y)
    with build.layer("act", total, name="SiLU") as call:
        call.returns(build(F.silu, total))
    graph = build.finish(call.output)
    assert Matcher(graph, find_marked_calls(graph)).find([Pattern.of(AddNorm())])[0] == ()


def test_the_attempt_that_got_furthest_says_where_it_ended_and_what_differs() -> None:
    def model(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(F.linear(x, gate)) * F.linear(x, up, torch.ones(8))

    graph = captured(model, torch.randn(2, 4), W, V).graph
    matches, near = Matcher(graph, ()).find([Pattern.of(SwiGLU())])
    assert (matches, type(near)) == ((), NearMiss)
    assert near is not None
    assert near.matched == 3
    assert (
        re.sub(r" \(\S+\)", "", near.text)
        == "3 of 4 operations of SwiGLU.forward matched; at linear_1 the pattern has linear with bias=None, the graph linear with bias=ones"
    )


def test_nothing_alike_is_no_near_miss() -> None:
    graph = captured(lambda x: x.cos().sin(), torch.randn(2)).graph
    assert Matcher(graph, ()).find([Pattern.of(SwiGLU())]) == ((), None)


def test_matching_is_deterministic() -> None:
    def model(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
        for _ in range(4):
            x = F.silu(F.linear(x, gate)) * F.linear(x, up)
        return x

    graph = captured(model, torch.randn(2, 4), torch.randn(4, 4), torch.randn(4, 4)).graph
    found = [[match.outputs[0].name for match in Matcher(graph, ()).find([Pattern.of(SwiGLU())])[0]] for _ in range(3)]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 4


@pytest.mark.parametrize("commuting", [4, 12])
def test_many_alternatives_end_within_the_bound_on_steps(commuting: int) -> None:
    class Sums(nn.Module):
        def forward(self, x: Any, y: Any) -> Any:
            for _ in range(commuting):
                x = x + (x * y)
            return x.tanh()

    def model(x: Tensor, y: Tensor) -> Tensor:
        first = x
        for _ in range(commuting):
            x = x + (x * y)
        return (x + (first * x)).tanh()

    assert find(Sums(), model, torch.randn(3), torch.randn(3)) == ()
