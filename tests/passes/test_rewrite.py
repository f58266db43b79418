"""Rewriting: what is edited, and what is kept."""

from __future__ import annotations

import operator

import pytest
import torch
from bracketings import build_layers, layers
from graphs import GraphBuilder, RunsReference, calls_of, computing, named, norm_call, replaced, rewrite_calls
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from fxkernels.passes.markers import markers_of
from fxkernels.passes.plan import plan_rewrites
from fxkernels.passes.rewrite import rewrite


def one_norm() -> fx.GraphModule:
    build = GraphBuilder()
    x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    return build.module(build(torch.cos, norm_call(build, "norm", build(torch.sin, x), weight)))


def two_outputs() -> fx.GraphModule:
    """A call that returns a sine, its own argument y, and a cosine."""
    build = GraphBuilder()
    x, y = build.tensor("x", 4), build.tensor("y", 4)
    with build.layer("pair", x, y) as pair:
        first = build(torch.sin, x)
        pair.returns(first, y, build(torch.cos, build(torch.add, first, y)))
    return build.module(*pair.outputs)


def test_region_becomes_one_call_of_the_kernel() -> None:
    module = one_norm()
    rewrite_calls(module, "norm")
    assert computing(module.graph) == ["sin", "mul_1", "cos"]
    kernel = named(module.graph, "mul_1")
    assert isinstance(kernel.target, RunsReference)
    assert kernel.all_input_nodes == [named(module.graph, "sin"), named(module.graph, "weight")]
    assert kernel.kwargs == {}


def test_rewritten_graph_computes_the_same() -> None:
    module = one_norm()
    x, weight = torch.randn(4, 8), torch.randn(8)
    rewrite_calls(module, "norm")
    expected = torch.cos(torch.nn.functional.rms_norm(torch.sin(x), (8,), weight, 1e-6))
    torch.testing.assert_close(module(x, weight), (expected,))


def test_call_of_the_kernel_has_name_and_metadata_of_the_output() -> None:
    module = one_norm()
    before = dict(named(module.graph, "mul_1").meta)
    rewrite_calls(module, "norm")
    after = named(module.graph, "mul_1").meta
    assert after == before
    assert set(after) >= {"example_value", "nn_module_stack", "stack_trace"}


def test_nothing_outside_the_region_changes() -> None:
    module = one_norm()
    outside = [named(module.graph, name) for name in ("x", "weight", "sin", "cos", "output")]
    before = [(node.name, node.target, dict(node.meta)) for node in outside]
    rewrite_calls(module, "norm")
    assert [node for node in module.graph.nodes if node.name != "mul_1"] == outside
    assert [(node.name, node.target, dict(node.meta)) for node in outside] == before


def test_no_marker_is_left() -> None:
    module = one_norm()
    rewrite_calls(module)
    assert markers_of(module.graph) == []


def test_graph_without_rewrites_is_the_graph_that_nobody_bracketed() -> None:
    code = []
    for markers in (True, False):
        build = GraphBuilder(markers=markers)
        x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
        with build.layer("block", x) as block:
            block.returns(norm_call(build, "block.norm", build(torch.sin, x), weight))
        module = build.module(block.output)
        rewrite_calls(module)
        code.append((module.code, [dict(node.meta) | {"example_value": None} for node in module.graph.nodes]))
    assert code[0] == code[1]


# --- several outputs --------------------------------------------------------------------------------------------------------------------


def test_each_computed_output_is_read_from_the_kernels_tuple() -> None:
    module = two_outputs()
    rewrite_calls(module, "pair")
    assert computing(module.graph) == ["kernel", "sin", "cos"]
    reads = [(named(module.graph, name).target, named(module.graph, name).args) for name in ("sin", "cos")]
    kernel = named(module.graph, "kernel")
    assert reads == [(operator.getitem, (kernel, 0)), (operator.getitem, (kernel, 2))]


def test_reads_have_name_and_metadata_of_the_outputs() -> None:
    module = two_outputs()
    before = {name: dict(named(module.graph, name).meta) for name in ("sin", "cos")}
    rewrite_calls(module, "pair")
    assert {name: dict(named(module.graph, name).meta) for name in ("sin", "cos")} == before


def test_call_with_several_outputs_has_all_their_example_values() -> None:
    module = two_outputs()
    examples = tuple(named(module.graph, name).meta["example_value"] for name in ("sin", "y", "cos"))
    rewrite_calls(module, "pair")
    meta = named(module.graph, "kernel").meta
    assert [one is other for one, other in zip(meta["example_value"], examples, strict=True)] == [True, True, True]
    assert meta["stack_trace"] == "the line of sin"


def test_argument_handed_through_stays_the_argument() -> None:
    module = two_outputs()
    rewrite_calls(module, "pair")
    assert named(module.graph, "output").args[0][1] is named(module.graph, "y")


def test_several_outputs_compute_the_same() -> None:
    module = two_outputs()
    rewrite_calls(module, "pair")
    x, y = torch.randn(4), torch.randn(4)
    torch.testing.assert_close(module(x, y), (torch.sin(x), y, torch.cos(torch.sin(x) + y)))


def test_output_that_stands_twice_in_the_result_is_read_once() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    with build.layer("twice", x) as twice:
        y = build(torch.sin, x)
        twice.returns(y, y)
    module = build.module(*twice.outputs)
    rewrite_calls(module, "twice")
    assert computing(module.graph) == ["kernel", "sin"]
    x = torch.randn(4)
    torch.testing.assert_close(module(x), (torch.sin(x), torch.sin(x)))


@pytest.mark.parametrize("unread", [1, 2])
def test_output_that_nobody_reads_may_be_rewritten(unread: int) -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    with build.layer("layer", x) as layer:
        layer.returns(*(build(torch.sin, x) for _ in range(unread)))
    module = build.module(build(torch.cos, x))
    rewrite_calls(module, "layer")
    x = torch.randn(4)
    torch.testing.assert_close(module(x), (torch.cos(x),))


def test_output_that_the_region_reads_as_well_may_be_rewritten() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    with build.layer("layer", x) as layer:
        y = build(torch.sin, x)
        build(torch.exp, y)  # nobody reads it
        layer.returns(y)
    module = build.module(layer.output)
    rewrite_calls(module, "layer")
    assert computing(module.graph) == ["sin"]


# --- several calls ----------------------------------------------------------------------------------------------------------------------


def chain() -> fx.GraphModule:
    """A norm whose input is another one's output, with nothing between."""
    build = GraphBuilder()
    x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    return build.module(norm_call(build, "second", norm_call(build, "first", x, weight), weight))


@pytest.mark.parametrize("backwards", [False, True])
def test_output_of_one_rewritten_call_is_the_input_of_the_next(backwards: bool) -> None:
    module = chain()
    calls = calls_of(module.graph)[:: -1 if backwards else 1]
    rewrite(plan_rewrites(calls, lambda call, conflict: replaced(call, module)))
    module.graph.lint()
    module.recompile()
    first, second = (named(module.graph, name) for name in computing(module.graph))
    assert second.args[0] is first
    x, weight = torch.randn(4, 8), torch.randn(8)
    norm = torch.nn.RMSNorm(8, 1e-6)
    norm.weight.data = weight
    torch.testing.assert_close(module(x, weight), (norm(norm(x)),))


def test_rewritten_call_covers_the_calls_inside_it() -> None:
    build = GraphBuilder()
    x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    with build.layer("block", x, tensors={"norm.weight": weight}) as block:
        block.returns(build(torch.sin, norm_call(build, "block.norm", x, weight)))
    module = build.module(block.output)
    rewrite_calls(module, "block", "block.norm")
    assert computing(module.graph) == ["sin"]


def test_call_inside_one_that_is_kept_is_rewritten() -> None:
    build = GraphBuilder()
    x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    with build.layer("block", x) as block:
        block.returns(norm_call(build, "block.norm", build(torch.sin, x), weight))
    module = build.module(block.output)
    rewrite_calls(module, "block.norm")
    assert computing(module.graph) == ["sin", "mul_1"]


# --- any bracketing ---------------------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(layers(), st.data())
def test_any_subset_of_any_bracketing_can_be_rewritten(items: list, data: st.DataObject) -> None:
    module, paths = build_layers(items, markers=True)
    plain, _ = build_layers(items, markers=False)
    chosen = data.draw(st.sets(st.sampled_from(paths))) if paths else set()
    rewritten = {call.site.path for call, _ in rewrite_calls(module, *chosen).rewrites}
    assert rewritten <= chosen
    assert bool(rewritten) is bool(chosen)
    x, weight = torch.randn(2, 8), torch.randn(8)
    torch.testing.assert_close(module(x, weight), plain(x, weight), equal_nan=True)
