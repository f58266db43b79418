"""Who else sees the memory of a call's argument, on graphs built by hand and on one that Dynamo captured."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from graphs import GraphBuilder, calls_of, then
from kernel_repositories import repository
from layers import Norm
from torch import fx, nn

from fxkernels import hubkernels
from fxkernels.backend import HubKernels
from fxkernels.decide import Decider
from fxkernels.passes.alias import Memory
from fxkernels.passes.layer_call import LayerCall

Build = GraphBuilder
Before = Callable[[Build, fx.Node], fx.Node]
After = Callable[[Build, fx.Node], object]


def sees(before: Before, after: After = lambda b, q: (), *, requires_grad: bool = False, dynamic: bool = False) -> str | None:
    """What the witness says of the argument `before` makes of an input, in a graph that does `after` with it after the call."""
    build = Build()
    x = build.tensor("x", 4, 8, requires_grad=requires_grad, dynamic=dynamic)
    q = before(build, x)
    with build.layer("layer", q) as layer:
        layer.returns(build(torch.neg, build(torch.detach, q)))
    returned = after(build, q)
    graph = build.finish(layer.output, *(returned if isinstance(returned, tuple) else ()))
    calls = calls_of(graph)
    witness = Memory(graph, calls).witness(q, calls[0])
    return None if witness is None else str(witness)


def fresh(build: Build, x: fx.Node) -> fx.Node:
    return build(torch.sin, x)


FRESH: dict[str, Before] = {
    "function": fresh,
    "functional": lambda b, x: b(F.silu, x),
    "method": lambda b, x: b.method("mul", x, 2),
    "operator": lambda b, x: b(operator.add, x, x),
    "operator of torch.ops": lambda b, x: b(torch.ops.aten.exp.default, x),
    "seen as heads": lambda b, x: b.method("transpose", b.method("view", b.method("relu", x), 1, -1, 2, 4), 1, 2),
    "clone": lambda b, x: b.method("clone", x),
    "cast": lambda b, x: b.method("to", x, torch.bfloat16),
    "filled": lambda b, x: b(torch.zeros, 4, 8),
    "in-place result": lambda b, x: b.method("add_", fresh(b, x), 1),
    "half of it": lambda b, x: b(operator.getitem, b(torch.chunk, fresh(b, x), 2), 0),
    "contiguous copy of a view": lambda b, x: b.method("contiguous", b.method("t", x)),
    "reshape that copies": lambda b, x: b.method("reshape", b.method("t", x), -1),
}


@pytest.mark.parametrize("value", FRESH)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_nobody_else_sees_memory_that_the_graph_made_and_only_the_call_reads(value: str, dynamic: bool) -> None:
    assert sees(FRESH[value], dynamic=dynamic) is None


OUTSIDE: dict[str, tuple[Before, str]] = {
    "the input itself": (lambda b, x: x, "x is an input of the graph"),
    "a view": (lambda b, x: b.method("view", x, 32), "view shares its memory with x, an input of the graph"),
    "a view of a view": (lambda b, x: b.method("t", b(operator.getitem, x, 0)), "t shares its memory with x, an input of the graph"),
    "a piece": (
        lambda b, x: b(operator.getitem, b.method("split", x, 2), 1),
        "getitem shares its memory with x, an input of the graph",
    ),
    "reshape that makes a view": (lambda b, x: b.method("reshape", x, 32), "reshape shares its memory with x, an input of the graph"),
    "cast to its own dtype": (lambda b, x: b.method("to", x, torch.float32), "to shares its memory with x, an input of the graph"),
    "contiguous already": (lambda b, x: b.method("contiguous", x), "contiguous shares its memory with x, an input of the graph"),
    "dropout that drops nothing": (lambda b, x: b(F.dropout, x, 0.1, False), "dropout shares its memory with x, an input of the graph"),
    "in-place result": (lambda b, x: b.method("add_", x, 1), "add_ shares its memory with x, an input of the graph"),
    "detached": (lambda b, x: b.method("detach", x), "detach shares its memory with x, an input of the graph"),
    "a constant": (lambda b, x: b.constant("table", torch.zeros(4)), "table is a constant of the graph"),
}


@pytest.mark.parametrize("value", OUTSIDE)
def test_memory_from_outside_of_the_graph_is_seen_by_whoever_gave_it(value: str) -> None:
    before, expected = OUTSIDE[value]
    assert sees(before) == expected


READ: dict[str, tuple[After, str]] = {
    "itself": (lambda b, q: b(torch.exp, q), "sin is read later by exp"),
    "written": (lambda b, q: b.method("zero_", q), "sin is read later by zero_"),
    "through a view": (
        lambda b, q: b(torch.exp, b.method("view", q, 32)),
        "sin shares its memory with view, which is read later by exp",
    ),
    "through a piece": (
        lambda b, q: b(torch.exp, b(operator.getitem, b(torch.unbind, q), 1)),
        "sin shares its memory with getitem, which is read later by exp",
    ),
    "its sum": (lambda b, q: b(torch.sum, q), "sin is read later by sum_1"),
    "returned": (lambda b, q: (q,), "sin is returned from the graph"),
    "returned as a view": (lambda b, q: (b.method("t", q),), "sin shares its memory with t, which is returned from the graph"),
}


@pytest.mark.parametrize("reader", READ)
def test_a_later_reader_of_the_memory_sees_it(reader: str) -> None:
    after, expected = READ[reader]
    assert sees(fresh, after) == expected


UNREAD: dict[str, After] = {
    "a view that nobody reads": lambda b, q: b.method("view", q, 32),
    "its size": lambda b, q: b.method("size", q, 0),
}


@pytest.mark.parametrize("reader", UNREAD)
def test_what_reads_no_element_sees_nothing(reader: str) -> None:
    assert sees(fresh, UNREAD[reader]) is None


def test_a_view_made_before_the_call_and_read_after_it_sees_the_memory() -> None:
    view: list[fx.Node] = []

    def before(build: Build, x: fx.Node) -> fx.Node:
        q = fresh(build, x)
        view.append(build.method("t", q))
        return q

    assert sees(before, lambda b, q: b(torch.exp, view[0])) == "sin shares its memory with t, which is read later by exp"


def test_what_is_read_before_the_call_only_may_be_overwritten() -> None:
    def before(build: Build, x: fx.Node) -> fx.Node:
        q = fresh(build, x)
        build(torch.exp, q)
        return q

    assert sees(before) is None


def test_an_argument_of_a_later_layer_call_is_seen_even_if_its_region_does_not_read_it() -> None:
    def after(build: Build, q: fx.Node) -> None:
        with build.layer("other", q) as layer:
            layer.returns(build(torch.zeros, 4))

    assert sees(fresh, after) == "sin is an argument of a later layer call"


def test_two_arguments_in_one_memory_see_each_other() -> None:
    build = Build()
    x = build.tensor("x", 4, 8)
    qk = build(torch.sin, x)
    q, k = (build(operator.getitem, build(torch.chunk, qk, 2), position) for position in (0, 1))
    with build.layer("layer", q, k, q) as layer:
        layer.returns(build(torch.neg, q))
    graph = build.finish(layer.output)
    (call,) = calls_of(graph)
    assert str(Memory(graph, [call]).witness(k, call)) == "getitem_1 shares its memory with getitem, which is another argument of the call"
    assert "another argument" in str(Memory(graph, [call]).witness(q, call))


def test_one_value_given_twice_sees_itself() -> None:
    build = Build()
    q = build(torch.sin, build.tensor("x", 4, 8))
    with build.layer("layer", q, q) as layer:
        layer.returns(build(torch.neg, q))
    graph = build.finish(layer.output)
    (call,) = calls_of(graph)
    assert str(Memory(graph, [call]).witness(q, call)) == "sin is another argument of the call"


OVERLAPPING: dict[str, Before] = {
    "expanded": lambda b, x: b.method("expand", b(torch.sum, x, 0, keepdim=True), 3, 8),
    "sliding window": lambda b, x: b.method("unfold", b(torch.sum, x, 0), 0, 3, 1),
}


@pytest.mark.parametrize("value", OVERLAPPING)
def test_elements_that_share_their_memory_cannot_be_overwritten_one_by_one(value: str) -> None:
    assert (sees(OVERLAPPING[value]) or "").endswith("has elements that share their memory")


# --- gradients --------------------------------------------------------------------------------------------------------------------------


def test_a_value_that_carries_a_gradient_may_be_needed_for_it() -> None:
    assert sees(fresh, requires_grad=True) == "sin carries a gradient, which may need it"


def test_a_view_that_carries_a_gradient_counts_for_the_detached_one() -> None:
    assert sees(lambda b, x: b(torch.detach, fresh(b, x)), requires_grad=True) == "detach carries a gradient, which may need it"


def test_an_earlier_product_with_a_weight_has_saved_the_value() -> None:
    def before(build: Build, x: fx.Node) -> fx.Node:
        q = fresh(build, x)
        build(torch.mul, q, build.tensor("w", 8, requires_grad=True))
        return q

    assert sees(before) == "sin is read by mul, whose gradient may need it"


def test_the_gradient_of_the_call_itself_may_need_its_argument() -> None:
    build = Build()
    q, w = build(torch.sin, build.tensor("x", 4, 8)), build.tensor("w", 8, requires_grad=True)
    with build.layer("layer", q, tensors={"weight": w}) as layer:
        layer.returns(build(torch.mul, q, w))
    graph = build.finish(layer.output)
    (call,) = calls_of(graph)
    assert str(Memory(graph, [call]).witness(q, call)) == "sin may be needed for the gradient of the call"


# --- operations that nobody knows -------------------------------------------------------------------------------------------------------


def of_unknown_kind(x: torch.Tensor) -> torch.Tensor:
    return torch.sin(x)


UNKNOWN: dict[str, tuple[Before, str]] = {
    "made by one": (lambda b, x: b(of_unknown_kind, fresh(b, x)), "of_unknown_kind comes from of_unknown_kind, which may keep it"),
    "given to one": (
        lambda b, x: then(q := fresh(b, x), b(of_unknown_kind, q)),
        "sin may share its memory with of_unknown_kind",
    ),
    "made of an input by one": (lambda b, x: b(of_unknown_kind, x), "of_unknown_kind shares its memory with x, an input of the graph"),
    "memory of numpy": (
        lambda b, x: then(q := fresh(b, x), b(torch.asarray, q)),
        "sin may share its memory with asarray",
    ),
}


@pytest.mark.parametrize("value", UNKNOWN)
def test_an_operation_of_unknown_kind_may_keep_or_return_whatever_it_is_given(value: str) -> None:
    before, expected = UNKNOWN[value]
    assert sees(before) == expected


# --- what Dynamo captures ---------------------------------------------------------------------------------------------------------------


class Watching(HubKernels):
    """Notes what the memory of each graph says of the first argument of each call."""

    found: list[str]

    def decider(self, calls: tuple[LayerCall, ...], mode: str | None = None) -> Decider:
        memories = {graph: Memory(graph, calls) for graph in dict.fromkeys(call.graph for call in calls)}
        self.found += [f"{call.key}: {memories[call.graph].witness(call.args[0], call)}" for call in calls]
        return super().decider(calls, mode)


@pytest.fixture
def watching() -> Watching:
    options = hubkernels(inner="eager", mapping={"RMSNorm": {"cpu": repository("norms", "RMSNorm")}}).options
    backend = Watching(options)
    backend.found = []
    return backend


class Model(nn.Module):
    """Norms of an input, of a value read again (a residual), and of one that nobody else reads."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.of_input, self.of_residual, self.of_own = Norm(), Norm(), Norm()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.linear(self.of_input(x))
        x = x + self.linear(self.of_residual(x))
        return self.of_own(self.linear(x).view(-1, 4, 8))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_calls_of_a_model_that_dynamo_captured_are_told_apart(watching: Watching, dynamic: bool) -> None:
    with torch.no_grad():
        torch.compile(Model(), backend=watching, fullgraph=True, dynamic=dynamic)(torch.randn(12, 8))
    of_input, of_residual, of_own = watching.found
    assert of_input.endswith("is an input of the graph")
    assert of_residual.startswith("of_residual#0: x")
    assert "is read later by" in of_residual
    assert of_own == "of_own#0: None"


def test_with_gradients_nothing_may_be_overwritten(watching: Watching) -> None:
    torch.compile(Model(), backend=watching, fullgraph=True)(torch.randn(12, 8))
    assert not [line for line in watching.found if line.endswith("None")]
