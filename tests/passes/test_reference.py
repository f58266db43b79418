"""The region as a graph of its own, and the value that tells equal regions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable

import pytest
import torch
from graphs import GraphBuilder, calls_of, norm_call, only_call
from torch import fx

from fxkernels.passes.reference import reference_of, structure
from fxkernels.passes.region import external_inputs


def test_reference_of_a_norm_computes_the_norm() -> None:
    build = GraphBuilder()
    x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    before = build(torch.sin, x)
    module = build.module(build(torch.cos, norm_call(build, "norm", before, weight)))
    reference = reference_of(only_call(module.graph), module)
    x, weight = torch.randn(4, 8), torch.randn(8)
    torch.testing.assert_close(reference(x, weight), (torch.nn.functional.rms_norm(x, (8,), weight, 1e-6),))


def test_reference_takes_external_inputs_in_their_order() -> None:
    build = GraphBuilder()
    x, unread, weight = build.tensor("x", 4), build.tensor("unread", 4), build.tensor("weight", 4)
    with build.layer("layer", unread, x, tensors={"weight": weight}) as layer:
        layer.returns(build(torch.sub, weight, x))
    module = build.module(layer.output)
    call = only_call(module.graph)
    names = [node.name for node in reference_of(call, module).graph.nodes if node.op == "placeholder"]
    assert names == [node.name for node in external_inputs(call)] == ["unread", "x", "weight"]


def test_reference_returns_all_outputs_also_those_handed_through() -> None:
    build = GraphBuilder()
    x, y = build.tensor("x", 4), build.tensor("y", 4)
    with build.layer("layer", x, y) as layer:
        total = build(torch.add, x, y)
        layer.returns(build(torch.sin, total), y, total)
    module = build.module(*layer.outputs)
    x, y = torch.randn(4), torch.randn(4)
    torch.testing.assert_close(reference_of(only_call(module.graph), module)(x, y), (torch.sin(x + y), y, x + y))


def test_reference_of_an_outer_call_contains_the_inner_one_without_markers() -> None:
    build = GraphBuilder()
    x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    with build.layer("block", x, tensors={"norm.weight": weight}) as block:
        block.returns(build(torch.sin, norm_call(build, "block.norm", x, weight)))
    module = build.module(block.output)
    outer, _ = calls_of(module.graph)
    x, weight = torch.randn(4, 8), torch.randn(8)
    (result,) = reference_of(outer, module)(x, weight)
    torch.testing.assert_close(result, torch.sin(torch.nn.functional.rms_norm(x, (8,), weight, 1e-6)))


def test_reference_has_the_constants_that_the_region_reads() -> None:
    build = GraphBuilder()
    x, table = build.tensor("x", 4), torch.arange(4.0)
    with build.layer("layer", x) as layer:
        layer.returns(build(torch.add, x, build.constant("table", table)))
    module = build.module(layer.output)
    (result,) = reference_of(only_call(module.graph), module)(torch.ones(4))
    torch.testing.assert_close(result, torch.ones(4) + table)


def test_reference_takes_sizes_as_inputs() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4, 8, dynamic=True)
    rows = build.method("size", x, 0)
    with build.layer("layer", x) as layer:
        layer.returns(build(operator.mul, x, rows))
    module = build.module(layer.output)
    torch.testing.assert_close(reference_of(only_call(module.graph), module)(torch.ones(3, 8), 3), (torch.full((3, 8), 3.0),))


def test_making_a_reference_leaves_the_graph_as_it_is() -> None:
    build = GraphBuilder()
    module = build.module(norm_call(build, "norm", build.tensor("x", 4, 8), build.tensor("weight", 8)))
    call = only_call(module.graph)
    before = str(module.graph)
    reference_of(call, module)
    assert str(module.graph) == before


# --- structure --------------------------------------------------------------------------------------------------------------------------


def structure_of(operations: Callable[[GraphBuilder, fx.Node, fx.Node], fx.Node]) -> Hashable:
    build = GraphBuilder()
    x, y = build.tensor("x", 4, 8), build.tensor("y", 4, 8)
    with build.layer("layer", x, y) as layer:
        layer.returns(operations(build, x, y))
    return structure(only_call(build.finish(layer.output)))


def test_identical_layers_have_equal_structure() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4, 8)
    for number in range(3):
        x = build(torch.sin, norm_call(build, f"layers.{number}.norm", x, build.tensor(f"weight{number}", 8)))
    structures = [structure(call) for call in calls_of(build.finish(x))]
    assert len(set(structures)) == 1


def test_markers_of_calls_inside_do_not_matter() -> None:
    structures = []
    for inner in (True, False):
        build = GraphBuilder()
        x = build.tensor("x", 4, 8)
        with build.layer("outer", x) as outer:
            if inner:
                with build.layer("inner", x) as call:
                    call.returns(build(torch.sin, x))
            else:
                build(torch.sin, x)
            outer.returns(build(torch.cos, list(build.graph.nodes)[-2 if inner else -1]))
        structures.append(structure(calls_of(build.finish(outer.output))[0]))
    assert structures[0] == structures[1]


CONSTANTS = [1, 1.0, True, 0, 0.0, -0.0, False, None, "1", (1,), [1], (1.0,), slice(1), slice(1, None), 1j, torch.float32, "mean"]
"""Each is another argument than the others, though some are equal in Python."""


def take(x: torch.Tensor, argument: object) -> torch.Tensor:
    return torch.clone(x)


@pytest.mark.parametrize("position", range(len(CONSTANTS)))
def test_other_constants_make_another_structure(position: int) -> None:
    structures = [structure_of(lambda build, x, y, value=value: build(take, x, value)) for value in CONSTANTS]
    assert [index for index, value in enumerate(structures) if value == structures[position]] == [position]


def test_nan_is_equal_to_itself() -> None:
    assert structure_of(lambda build, x, y: build(take, x, float("nan"))) == structure_of(lambda build, x, y: build(take, x, float("nan")))


VARIANTS: dict[str, Callable[[GraphBuilder, fx.Node, fx.Node], fx.Node]] = {
    "plain": lambda build, x, y: build(torch.sub, x, y),
    "wired the other way": lambda build, x, y: build(torch.sub, y, x),
    "one argument twice": lambda build, x, y: build(torch.sub, x, x),
    "another function": lambda build, x, y: build(torch.add, x, y),
    "a method": lambda build, x, y: build.method("sub", x, y),
    "by keyword": lambda build, x, y: build(torch.sub, x, other=y),
    "with a keyword": lambda build, x, y: build(torch.sub, x, y, alpha=2),
    "with another value of the keyword": lambda build, x, y: build(torch.sub, x, y, alpha=3),
    "a step more": lambda build, x, y: build(torch.sin, build(torch.sub, x, y)),
    "a slice": lambda build, x, y: build(operator.getitem, x, (slice(None), slice(0, 2))),
    "another slice": lambda build, x, y: build(operator.getitem, x, (slice(None), slice(0, 3))),
    "a slice of the other": lambda build, x, y: build(operator.getitem, y, (slice(None), slice(0, 2))),
    "a list": lambda build, x, y: build(torch.cat, [x, y]),
    "a list in another order": lambda build, x, y: build(torch.cat, [y, x]),
}


def test_other_operations_and_other_wiring_make_another_structure() -> None:
    assert len({structure_of(operations) for operations in VARIANTS.values()}) == len(VARIANTS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_same_operations_in_two_graphs_have_equal_structure(variant: str) -> None:
    assert structure_of(VARIANTS[variant]) == structure_of(VARIANTS[variant])


def test_order_of_outputs_matters() -> None:
    structures = set()
    for order in (1, -1):
        build = GraphBuilder()
        x = build.tensor("x", 4)
        with build.layer("layer", x) as layer:
            layer.returns(*[build(torch.sin, x), build(torch.cos, x)][::order])
        structures.add(structure(only_call(build.finish(*layer.outputs))))
    assert len(structures) == 2


def test_number_of_inputs_matters_also_of_those_that_are_not_read() -> None:
    structures = set()
    for unread in (0, 1):
        build = GraphBuilder()
        x, *rest = (build.tensor(name, 4) for name in "xy"[: 1 + unread])
        with build.layer("layer", x, *rest) as layer:
            layer.returns(build(torch.sin, x))
        structures.add(structure(only_call(build.finish(layer.output))))
    assert len(structures) == 2


def test_region_that_reads_a_constant_of_its_graph_equals_no_other() -> None:
    structures = [
        structure_of(lambda build, x, y: build(torch.add, x, build.constant("table", torch.zeros(8)))),
        structure_of(lambda build, x, y: build(torch.add, x, build.constant("table", torch.ones(8)))),
    ]
    assert structures[0] != structures[1]


def test_region_with_an_argument_of_unknown_type_equals_no_other() -> None:
    structures = [structure_of(lambda build, x, y: build(take, x, torch.Generator())) for _ in range(2)]
    assert structures[0] != structures[1]
