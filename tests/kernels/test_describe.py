"""A layer call in words: its inputs, the operations of its region, and the call of the kernel."""

from __future__ import annotations

import functools
import operator

import torch
from graphs import GraphBuilder, calls_of, norm_call, only_call
from kernel_repositories import repository

from fxkernels import explain, use_kernel_mapping
from fxkernels.builtin import builtin_mapping
from fxkernels.demo_model import decoder
from fxkernels.kernels.describe import Operation, describe, describe_inputs
from fxkernels.report.model import GraphDecision
from fxkernels.report.report import Report

LONG_STACK = """
  File "/home/user/model.py", line 40, in forward
    x = self.norm(x)
  File "/home/user/layers.py", line 12, in forward
    return F.silu(x)
  File "{torch}/nn/functional.py", line 2371, in silu
    return torch._C._nn.silu(input)
""".replace("{torch}", str(torch.__path__[0]))


@functools.cache
def explained_decoder() -> Report:
    """The demo's decoder, with a kernel for its norms and one for its rotary embedding."""
    model, args = decoder(length=16, layers=2)
    mapping = {"RMSNorm": {"cpu": repository("norms", "RMSNorm")}, "rotary_pos_emb": builtin_mapping()["rotary_pos_emb"]}
    with use_kernel_mapping(mapping, inherit_mapping=False):
        return explain(model, *args)


def decision_of(path: str) -> GraphDecision:
    (call,) = [call for call in explained_decoder().calls if call.path == path]
    return call.decisions[-1]


def test_inputs_have_the_names_of_the_layers_signature_and_its_tensors_those_of_its_attributes() -> None:
    decision = decision_of("norm")
    assert decision.inputs == ("hidden_states: f32[1, 16, 512]", "self.weight: f32[512]")


def test_values_have_the_names_of_the_layers_variables_and_the_output_is_the_output() -> None:
    decision = decision_of("norm")
    assert list(map(str, decision.before)) == [
        "x = hidden_states.to(torch.float32)  # f32[1, 16, 512]",
        "pow = x.pow(2)  # f32[1, 16, 512]",
        "variance = pow.mean(-1, keepdim=True)  # f32[1, 16, 1]",
        "add = variance + 1e-06  # f32[1, 16, 1]",
        "rsqrt = torch.rsqrt(add)  # f32[1, 16, 1]",
        "mul = x * rsqrt  # f32[1, 16, 512]",
        "to = mul.to(torch.float32)  # f32[1, 16, 512]",
        "output = self.weight * to  # f32[1, 16, 512]",
    ]


def test_the_call_of_the_kernel_has_its_name_its_arguments_and_the_layers_tensors() -> None:
    decision = decision_of("norm")
    assert list(map(str, decision.after)) == ["output = norms:RMSNorm(hidden_states, self.weight)  # f32[1, 16, 512]"]


def test_a_call_with_two_outputs_has_both_before_and_after() -> None:
    decision = decision_of("layers.0.self_attn.rotary_pos_emb")
    assert [operation.name for operation in decision.before if operation.name.startswith("output")] == ["output_0", "output_1"]
    assert [operation.name for operation in decision.after] == ["output_0, output_1"]
    assert decision.after[0].code == "rotary:rotary_pos_emb(q, k, cos, sin)"


def test_identical_calls_are_described_by_equal_operations() -> None:
    first, second = (decision_of(f"layers.{n}.input_layernorm") for n in range(2))
    assert (first.inputs, first.before, first.after) == (second.inputs, second.before, second.after)


def test_an_operation_has_the_innermost_line_of_the_users_code() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    with build.layer("layer", x) as layer:
        node = build(torch.nn.functional.silu, x)
        node.meta["stack_trace"] = LONG_STACK
        layer.returns(node)
    (operation,) = describe(only_call(build.finish(layer.output))).before
    assert operation.location == "/home/user/layers.py:12"


def test_an_operation_without_a_stack_has_no_location() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    with build.layer("layer", x) as layer:
        node = build(torch.sin, x)
        del node.meta["stack_trace"]
        layer.returns(node)
    (operation,) = describe(only_call(build.finish(layer.output))).before
    assert operation == Operation("output", "torch.sin(argument_0)", "f32[4]", None)


def test_an_assignment_keeps_the_name_of_what_it_changes() -> None:
    build = GraphBuilder()
    x, y = build.tensor("x", 4), build.tensor("y", 4)
    with build.layer("layer", x, y) as layer:
        total = build(torch.add, x, y)
        more = build(operator.iadd, total, y)
        layer.returns(build(torch.sin, more))
    operations = describe(only_call(build.finish(layer.output))).before
    assert [str(operation).split("  #")[0] for operation in operations] == [
        "add = torch.add(argument_0, argument_1)",
        "add += argument_1",
        "output = torch.sin(add)",
    ]


def test_values_inside_containers_are_named_by_their_place() -> None:
    build = GraphBuilder()
    x, cos, sin = (build.tensor(name, 4) for name in ("x", "cos", "sin"))
    with build.layer("layer", x, (cos, sin), {"bias": x}) as layer:
        layer.returns(build(operator.mul, build(operator.mul, x, cos), sin))
    assert describe_inputs(only_call(build.finish(layer.output))) == (
        "argument_0: f32[4]",
        "argument_1[0]: f32[4]",
        "argument_1[1]: f32[4]",
    )


def test_dynamic_sizes_are_numbered_in_the_order_of_the_inputs() -> None:
    build = GraphBuilder()
    for _ in range(3):
        build.tensor("other", 5, 7, dynamic=True)
    x, weight = build.tensor("x", 4, 8, dynamic=True), build.tensor("weight", 8)
    rows = build.method("size", x, 0)
    with build.layer("layer", x, tensors={"weight": weight}) as layer:
        layer.returns(build(operator.mul, x, rows))
    description = describe(only_call(build.finish(layer.output)))
    assert description.inputs == ("argument_0: f32[s0, s1]", "self.weight: f32[8]", "s0: int")
    assert list(map(str, description.before)) == ["output = argument_0 * s0  # f32[s0, s1]"]


def test_operations_of_inner_calls_are_among_those_of_the_outer_one() -> None:
    build = GraphBuilder()
    x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    with build.layer("block", x, tensors={"norm.weight": weight}) as block:
        block.returns(build(torch.sin, norm_call(build, "block.norm", x, weight)))
    outer, inner = calls_of(build.finish(block.output))
    assert len(describe(outer).before) == len(describe(inner).before) + 1
    assert describe(outer).before[-1].code == "torch.sin(mul_1)"
