"""Calls that Dynamo captures, in all the ways in which real models make them: what is found, what runs, and that the numbers stay."""

from __future__ import annotations

import dataclasses
import functools
import threading

import pytest
import torch
from kernel_repositories import executions, repository, reset_executions
from layers import Block, Norm, Stack, gradients
from torch import nn
from torch.utils.checkpoint import checkpoint

from fxkernels import hubkernels, use_kernel_forward_from_hub

MAPPING = {"RMSNorm": {"cpu": repository("norms", "RMSNorm")}}


@pytest.fixture(autouse=True)
def fresh_counters() -> None:
    reset_executions("norms", "rotary")


def compiled(model, mapping=MAPPING, *, inner="eager", **compile_options):
    backend = hubkernels(inner=inner, mapping=mapping)
    return torch.compile(model, backend=backend, **compile_options), backend


def statuses(backend):
    return {f"{call.path}#{call.index}": call.status for call in backend.report.calls}


def assert_same(model, *inputs, mapping=MAPPING, inner="eager", **compile_options):
    """The compiled model gives the plain one's values and gradients; returns the backend."""
    run, backend = compiled(model, mapping, inner=inner, **compile_options)
    for x in inputs:
        expected, expected_gradients = gradients(model, x, list(model.parameters()))
        output, output_gradients = gradients(run, x, list(model.parameters()))
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(output_gradients, expected_gradients)
    return backend


@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
def test_every_call_of_a_stack_is_rewritten_with_the_same_values_and_gradients(inner):
    backend = assert_same(Stack(), torch.randn(3, 8), inner=inner, fullgraph=True)
    assert statuses(backend) == {"blocks.0.norm#0": "rewritten", "blocks.1.norm#0": "rewritten", "norm#0": "rewritten"}


def test_the_rewritten_graph_runs_the_kernel_once_per_call():
    run, _ = compiled(Stack(), fullgraph=True)
    run(torch.randn(3, 8))
    assert executions("norms")["RMSNorm"] == 3


def test_without_a_mapping_the_graph_is_the_one_that_the_eager_backend_gets():
    model, seen = Stack(), []

    def spy(gm, example_inputs):
        seen.append(gm.code)
        return gm.forward

    torch.compile(model, backend=spy)(torch.randn(3, 8))
    torch._dynamo.reset()
    _, backend = compiled(model, {})
    torch.compile(model, backend=backend)(torch.randn(3, 8))
    assert backend.report.graphs[0].code == seen[0]


class Towers(nn.Module):
    """Two stacks that are independent of each other; which one runs first differs, as the order of a dict may on the ranks of a job."""

    def __init__(self, first="left"):
        super().__init__()
        self.left, self.right = Stack(), Stack()
        self.order = sorted(("left", "right"), key=first.__ne__)

    def forward(self, x, y):
        given, found = {"left": x, "right": y}, {}
        table = torch.zeros(8)
        for name in self.order:
            found[name] = getattr(self, name)(given[name])
        return found["left"] * found["right"] + (x.sin() + y.cos()) + table.add_(1)


@pytest.fixture
def canonical():
    if not hasattr(torch._dynamo.config, "canonicalize_output_graph_node_order"):
        pytest.skip("Dynamo orders its graphs since torch 2.14")
    with torch._dynamo.config.patch(canonicalize_output_graph_node_order=True):
        yield


def graph_of_towers(backend_of, first="left"):
    """The nodes of the graph that a backend's inner compiler gets."""
    seen = []

    def spy(gm, example_inputs):
        seen.append([(node.op, node.name, node.args, getattr(node.target, "__name__", node.target)) for node in gm.graph.nodes])
        return gm.forward

    torch._dynamo.reset()
    torch.compile(Towers(first), backend=backend_of(spy))(torch.randn(3, 8), torch.randn(3, 8))
    return str(seen[0])


@pytest.mark.usefixtures("canonical")
def test_in_canonical_order_the_graph_without_a_kernel_is_the_one_that_another_backend_gets():
    assert graph_of_towers(lambda spy: hubkernels(inner=spy, mapping={})) == graph_of_towers(lambda spy: spy)


@pytest.mark.usefixtures("canonical")
def test_in_canonical_order_traces_that_differ_in_order_only_get_one_graph_with_kernels():
    graphs = {graph_of_towers(lambda spy: hubkernels(inner=spy, mapping=MAPPING), first) for first in ("left", "right")}
    assert len(graphs) == 1
    assert graphs.pop().count("kernel_RMSNorm") == 6


@pytest.mark.usefixtures("canonical")
@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
def test_in_canonical_order_every_call_is_rewritten_with_the_same_values_and_gradients(inner):
    model, values = Towers(), [torch.randn(3, 8, requires_grad=True) for _ in range(2)]
    run, backend = compiled(model, inner=inner)
    wanted = [*values, *model.parameters()]
    torch.testing.assert_close(run(*values), model(*values))
    torch.testing.assert_close(
        torch.autograd.grad(run(*values).sum(), wanted, allow_unused=True),
        torch.autograd.grad(model(*values).sum(), wanted, allow_unused=True),
    )
    assert set(statuses(backend).values()) == {"rewritten"}
    assert len(statuses(backend)) == 6


def test_another_backend_sees_no_marker_while_ours_is_in_use():
    model, seen = Stack(), []
    compiled(model)[0](torch.randn(3, 8))
    torch._dynamo.reset()
    torch.compile(model, backend=lambda gm, _: seen.append(gm) or gm.forward)(torch.randn(3, 8))
    assert "enter" not in seen[0].code
    assert "kernel_" not in seen[0].code


def test_graph_breaks_between_calls_leave_every_call_rewritten():
    def around(block, x):
        torch._dynamo.graph_break()
        return block(x)

    backend = assert_same(Stack(around=around), torch.randn(3, 8))
    assert executions("norms")["RMSNorm"] == 3
    assert statuses(backend) == {"blocks.0.norm#0": "rewritten", "norm#0": "rewritten", "blocks.1.norm#0": "not_captured"}
    assert "the graph of blocks.0.norm serves it too" in backend.report.calls[-1].miss.message


def test_a_layer_that_breaks_its_own_graph_keeps_its_forward_and_says_so():
    @use_kernel_forward_from_hub("RMSNorm")
    class BreakingNorm(Norm):
        def forward(self, hidden_states):
            hidden_states = hidden_states * 1.0
            torch._dynamo.graph_break()
            return super().forward(hidden_states)

    model = nn.Sequential(BreakingNorm())
    backend = assert_same(model, torch.randn(3, 8))
    codes = {decision.misses[0].code for call in backend.report.calls for decision in call.decisions if decision.misses}
    assert "graph_break" in codes
    assert executions("norms")["RMSNorm"] == 0


def test_a_layer_called_after_a_graph_break_in_its_caller_is_the_whole_graph_of_its_frame():
    class Caller(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = Norm()

        def forward(self, x):
            with torch.no_grad():
                size = x.sum().item()
            return self.norm(x) * (size - size + 1)

    backend = assert_same(Caller(), torch.randn(3, 8))
    assert statuses(backend) == {"norm#0": "rewritten"}


@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
def test_calls_inside_checkpointed_blocks_are_rewritten(inner):
    model = Stack(around=lambda block, x: checkpoint(block, x, use_reentrant=False))
    backend = assert_same(model, torch.randn(3, 8), inner=inner, fullgraph=True)
    assert statuses(backend) == {"norm#0": "rewritten", "blocks.0.norm#0": "rewritten", "blocks.1.norm#0": "rewritten"}


def test_identical_blocks_compiled_by_themselves_share_one_graph():
    model, backend = Stack(blocks=4), hubkernels(inner="eager", mapping=MAPPING)
    x = torch.randn(3, 8, requires_grad=True)
    expected = model(x)
    for block in model.blocks:
        block.compile(backend=backend, fullgraph=True)
    torch.testing.assert_close(model(x), expected)
    assert len(backend.report.graphs) == 1
    assert executions("norms")["RMSNorm"] == 4


def test_an_annotated_layer_compiled_by_itself_is_rewritten():
    norm, backend = Norm(), hubkernels(inner="eager", mapping=MAPPING)
    x = torch.randn(3, 8)
    expected = norm(x)
    norm.compile(backend=backend, fullgraph=True)
    torch.testing.assert_close(norm(x), expected)
    assert executions("norms")["RMSNorm"] == 1
    assert statuses(backend) == {"#0": "rewritten"}


def test_a_layer_with_another_epsilon_does_not_run_the_graph_of_its_twin():
    backend, x = hubkernels(inner="eager", mapping=MAPPING), torch.randn(3, 8)
    layers = [Norm(eps=1e-6), Norm(eps=1.0)]
    expected = [layer(x) for layer in layers]
    for layer in layers:
        layer.compile(backend=backend, fullgraph=True)
    torch.testing.assert_close([layer(x) for layer in layers], expected)


@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
def test_dynamic_shapes_are_rewritten_in_one_graph(inner):
    backend = assert_same(Stack(), torch.randn(3, 8), torch.randn(5, 8), torch.randn(7, 8), inner=inner, fullgraph=True, dynamic=True)
    assert len(backend.report.graphs) == 1
    assert set(statuses(backend).values()) == {"rewritten"}


def test_a_shared_layer_called_twice_is_two_calls_of_one_path():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = Norm()
            self.alias = self.norm

        def forward(self, x):
            return self.alias(self.norm(x) + x)

    backend = assert_same(Twice(), torch.randn(3, 8), fullgraph=True)
    assert statuses(backend) == {"norm#0": "rewritten", "norm#1": "rewritten"}


def test_a_parametrized_layer_gives_the_parametrized_values_and_gradients():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    model = nn.Sequential(Norm())
    nn.utils.parametrize.register_parametrization(model[0], "weight", Doubled())
    backend = assert_same(model, torch.randn(3, 8))
    (call,) = [call for call in backend.report.calls if call.layer_name == "RMSNorm"]
    assert call.status == "rewritten" or call.miss is not None


def test_hooks_of_a_layer_run_around_its_kernel():
    model, x = nn.Sequential(Norm()), torch.randn(3, 8)
    model[0].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    model[0].register_forward_hook(lambda module, args, output: output * 3)
    backend = assert_same(model, x)
    assert statuses(backend) == {"0#0": "rewritten"}


@dataclasses.dataclass
class Result:
    first: torch.Tensor
    second: torch.Tensor


@use_kernel_forward_from_hub("rotary")
class Pair(nn.Module):
    """Returns two tensors, packed as `kind` says."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, q, k, cos, sin, unsqueeze_dim=1):
        first, second = q * cos.unsqueeze(unsqueeze_dim), k * sin.unsqueeze(unsqueeze_dim)
        packed = {
            "tuple": (first, second),
            "list": [first, second],
            "dict": {"first": first, "second": second},
            "dataclass": Result(first, second),
        }
        return packed[self.kind]


class PairUser(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.pair = Pair(kind)

    def forward(self, q):
        table = torch.ones(2, 4, 8, device=q.device)
        result = self.pair(q, q, table, table)
        if isinstance(result, dict):
            return result["first"] - 2 * result["second"]
        if isinstance(result, Result):
            return result.first - 2 * result.second
        return result[0] - 2 * result[1]


class Halved:
    """A repository object whose kernel returns something recognisable: half of what the reference returns, packed alike."""

    def load(self):
        return HalvedPair


class HalvedPair(nn.Module):
    can_torch_compile = True

    def forward(self, q, k, cos, sin, unsqueeze_dim=1):
        first, second = q * cos.unsqueeze(unsqueeze_dim) / 2, k * sin.unsqueeze(unsqueeze_dim) / 2
        if self.kind == "dict":
            return {"first": first, "second": second}
        return first, second


@pytest.mark.parametrize("kind", ["tuple", "list", "dict", "dataclass"])
def test_each_tensor_of_a_packed_output_is_replaced_by_the_kernels(kind):
    model, q = PairUser(kind), torch.randn(2, 3, 4, 8)
    run, backend = compiled(model, {"rotary": {"cpu": Halved()}}, fullgraph=True)
    torch.testing.assert_close(run(q), model(q) / 2)
    assert statuses(backend) == {"pair#0": "rewritten"}


def test_a_subclass_that_overrides_forward_keeps_it_and_says_so():
    class Overriding(Norm):
        def forward(self, hidden_states):
            return super().forward(hidden_states) * 2

    backend = assert_same(nn.Sequential(Overriding()), torch.randn(3, 8), fullgraph=True)
    (call,) = backend.report.calls
    assert (call.status, call.miss.code) == ("missed", "forward_overridden")


def test_a_subclass_that_inherits_forward_is_the_annotated_layer():
    class Inheriting(Norm):
        pass

    backend = assert_same(nn.Sequential(Inheriting()), torch.randn(3, 8), fullgraph=True)
    assert statuses(backend) == {"0#0": "rewritten"}


def test_two_threads_compile_one_class_with_two_backends():
    model, x = Stack(), torch.randn(3, 8)
    expected = model(x)
    backends = [hubkernels(inner="eager", mapping=MAPPING), hubkernels(inner="eager", mapping={})]
    results: dict[int, torch.Tensor] = {}

    def work(number):
        results[number] = torch.compile(model, backend=backends[number])(x)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(results, {0: expected, 1: expected})
    assert len(backends[0].report.rewritten) == 3
    assert len(backends[1].report.rewritten) == 0


def test_the_path_of_a_function_call_is_that_of_its_caller_and_its_layer_name():
    model = RotaryUser()
    q, table = torch.randn(2, 3, 4, 8), torch.randn(2, 4, 8)
    run, backend = compiled(model, {"rotary_pos_emb": {"cpu": repository("rotary", "rotary_pos_emb")}}, fullgraph=True)
    torch.testing.assert_close(run(q, table), model(q, table))
    assert statuses(backend) == {"attention.rotary_pos_emb#0": "rewritten"}
    assert executions("rotary")["rotary_pos_emb"] == 1


@use_kernel_forward_from_hub("rotary_pos_emb")
def rotate(q, k, cos, sin, unsqueeze_dim=1):
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)

    def half(x):
        first, second = x.chunk(2, dim=-1)
        return torch.cat((-second, first), dim=-1)

    return q * cos + half(q) * sin, k * cos + half(k) * sin


class Attention(nn.Module):
    def forward(self, q, table):
        q, k = rotate(q, q, table, table)
        return q + 2 * k


class RotaryUser(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention()

    def forward(self, q, table):
        return self.attention(q, table)


def test_a_caller_whose_self_is_closed_over_is_found_all_the_same():
    class Closing(nn.Module):
        def forward(self, q, table):
            q, k = rotate(q, q, table, table)
            return sum(part * (1 + self.training) for part in (q, k))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = Closing()

        def forward(self, q, table):
            return self.attention(q, table)

    run, backend = compiled(Model(), {"rotary_pos_emb": {"cpu": repository("rotary", "rotary_pos_emb")}})
    run(torch.randn(2, 3, 4, 8), torch.randn(2, 4, 8))
    assert statuses(backend) == {"attention.rotary_pos_emb#0": "rewritten"}


@pytest.mark.parametrize("mapping", [MAPPING, {}], ids=["mapped", "unmapped"])
def test_the_paths_are_the_models_where_a_decorator_hands_its_self_on_among_other_arguments(mapping):
    def handing_on(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    class Decorated(Stack):
        forward = handing_on(Stack.forward)

    run, backend = compiled(Decorated(), mapping)
    run(torch.randn(3, 8))
    assert list(statuses(backend)) == ["blocks.0.norm#0", "blocks.1.norm#0", "norm#0"]


def test_a_function_follows_the_training_flag_of_its_caller():
    model = RotaryUser()
    q, table = torch.randn(2, 3, 4, 8), torch.randn(2, 4, 8)
    run, _ = compiled(model, {"rotary_pos_emb": {"cpu": repository("rotary", "InferenceRotary")}})
    run(q, table)
    assert executions("rotary")["InferenceRotary"] == 0
    model.attention.eval()
    run(q, table)
    assert executions("rotary")["InferenceRotary"] == 1


def test_an_annotated_function_compiled_by_itself_is_rewritten():
    run, backend = compiled(rotate, {"rotary_pos_emb": {"cpu": repository("rotary", "rotary_pos_emb")}}, fullgraph=True)
    q, table = torch.randn(2, 3, 4, 8), torch.randn(2, 4, 8)
    torch.testing.assert_close(run(q, q, table, table), rotate(q, q, table, table))
    assert statuses(backend) == {"rotary_pos_emb#0": "rewritten"}


def test_a_frame_with_variable_arguments_is_rewritten_with_all_of_them():
    @use_kernel_forward_from_hub("scale")
    class Scale(nn.Module):
        def forward(self, x, *factors, **options):
            return x * factors[0] * options["last"]

    class ScaleKernel(nn.Module):
        def forward(self, x, *factors, **options):
            return x * factors[0] * options["last"] * 2

    class Repository:
        def load(self):
            return ScaleKernel

    layer, x = Scale(), torch.randn(3, 8)
    run, backend = compiled(layer, {"scale": {"cpu": Repository()}}, fullgraph=True)
    torch.testing.assert_close(run(x, x, last=x), 2 * layer(x, x, last=x))
    assert statuses(backend) == {"#0": "rewritten"}
    torch._dynamo.reset()
    run, backend = compiled(nn.ModuleDict({"scale": layer})["scale"].forward, {"scale": {"cpu": Repository()}}, fullgraph=True)
    torch.testing.assert_close(run(x, x, last=x), 2 * layer(x, x, last=x))


def test_nested_calls_are_covered_by_the_outer_one_and_have_their_turn_where_it_misses():
    @use_kernel_forward_from_hub("Outer")
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = Norm()

        def forward(self, x):
            return self.norm(x) + 1

    class OuterKernel(nn.Module):
        can_torch_compile = True

        def forward(self, x):
            return self.norm.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.norm.variance_epsilon) + 1

    class OuterRepository:
        def load(self):
            return OuterKernel

    model = nn.Sequential(Outer())
    both = assert_same(model, torch.randn(3, 8), mapping={**MAPPING, "Outer": {"cpu": OuterRepository()}}, fullgraph=True)
    assert statuses(both) == {"0#0": "rewritten", "0.norm#0": "covered"}
    torch._dynamo.reset()
    inner = assert_same(model, torch.randn(3, 8), fullgraph=True)
    assert statuses(inner) == {"0#0": "missed", "0.norm#0": "rewritten"}


def test_a_layer_that_keeps_what_it_computed_escapes_and_keeps_its_forward():
    @use_kernel_forward_from_hub("RMSNorm")
    class Remembering(Norm):
        def forward(self, hidden_states):
            self.last = hidden_states * 2
            return self.last * self.weight

    model = nn.Sequential(Remembering())
    run, backend = compiled(model, fullgraph=True)
    x = torch.randn(3, 8)
    torch.testing.assert_close(run(x), x * 2 * model[0].weight)
    torch.testing.assert_close(model[0].last, x * 2)
    assert backend.report.calls[0].miss.code in ("escape", "state")


def test_a_layer_in_which_dropout_is_active_keeps_its_forward():
    @use_kernel_forward_from_hub("RMSNorm")
    class Dropping(Norm):
        def forward(self, hidden_states):
            return nn.functional.dropout(hidden_states, 0.5, self.training) * self.weight

    run, backend = compiled(nn.Sequential(Dropping()), fullgraph=True)
    run(torch.randn(3, 8))
    assert backend.report.calls[0].miss.code == "random"


def test_swapped_parameters_reach_the_kernel():
    model, x = Stack(), torch.randn(3, 8)
    run, _ = compiled(model, fullgraph=True)
    run(x)
    model.norm.weight = nn.Parameter(torch.full((8,), 3.0))
    torch.testing.assert_close(run(x), model(x))
    model.double()
    torch.testing.assert_close(run(x.double()), model(x.double()))


def test_a_block_compiled_with_the_backends_name_uses_the_mapping_in_force():
    from fxkernels import last_report, use_kernel_mapping

    block, x = Block(), torch.randn(3, 8)
    expected = block(x)
    with use_kernel_mapping(MAPPING):
        block.compile(backend="hubkernels", options={"inner": "eager"}, fullgraph=True)
        torch.testing.assert_close(block(x), expected)
    assert [call.status for call in last_report().calls] == ["rewritten"]
