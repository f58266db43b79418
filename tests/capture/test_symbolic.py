from __future__ import annotations

import copy
import io
import math
import threading

import pytest
import torch
from torch import fx, nn

from fxkernels.annotate import use_kernel_forward_from_hub
from fxkernels.capture.symbolic import LayerTracer, trace_exactly
from fxkernels.errors import CaptureError


@use_kernel_forward_from_hub("RMSNorm")
class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))

    def forward(self, x, scale=1.0):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight * scale


class OverriddenNorm(Norm):
    def forward(self, x, scale=1.0):
        return super().forward(x, scale) + 1


@use_kernel_forward_from_hub("Rotate")
def rotate(x, angle, sign=1):
    return x * angle * sign


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = Norm(width)
        self.linear = nn.Linear(width, width)
        self.gain = nn.Parameter(torch.randn(width))
        self.register_buffer("shift", torch.randn(width), persistent=False)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        h = self.norm(self.linear(x) * self.gain, scale=2.0) + self.shift
        return self.drop(rotate(h, h.sum(), sign=-1))


class Model(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.norm = Norm(width)
        self.bias = nn.Parameter(torch.randn(width))
        self.register_buffer("offset", torch.randn(width), persistent=False)
        self.register_buffer("kept", torch.randn(width))
        self.plain = torch.full((width,), 0.5)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.norm(x) + self.norm(self.bias) + self.offset + self.kept * self.plain


@pytest.fixture
def model() -> Model:
    return Model().eval()


x = torch.randn(3, 8)


def targets(module: fx.GraphModule, op: str) -> list[object]:
    return [node.target for node in module.graph.nodes if node.op == op]


def test_graph_computes_what_the_model_computes(model):
    assert torch.equal(trace_exactly(model)(x), model(x))


def test_each_call_of_an_annotated_layer_is_one_node_with_its_exact_arguments(model):
    traced = trace_exactly(model)
    calls = [node for node in traced.graph.nodes if node.op == "call_module" and "norm" in node.target]
    assert [node.target for node in calls] == ["blocks.0.norm", "blocks.1.norm", "norm", "norm"]
    assert [dict(node.kwargs) for node in calls] == [{"scale": 2.0}, {"scale": 2.0}, {}, {}]


def test_each_call_of_an_annotated_function_is_one_node_with_its_exact_arguments(model):
    traced = trace_exactly(model)
    calls = [node for node in traced.graph.nodes if node.op == "call_module" and "rotate" in node.target]
    assert [node.target for node in calls] == ["blocks.0.rotate", "blocks.1.rotate"]
    assert all(len(node.args) == 2 and dict(node.kwargs) == {"sign": -1} for node in calls)
    assert all(traced.get_submodule(node.target).function is rotate for node in calls)


def test_a_subclass_that_overrides_forward_is_traced_through():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = OverriddenNorm(8)

        def forward(self, x):
            return self.norm(x)

    assert targets(trace_exactly(Holder()), "call_module") == []


def test_annotated_layers_inside_a_layer_of_torch_are_seen():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.stack = nn.Sequential(nn.Linear(8, 8), nn.Sequential(Norm(8)))

        def forward(self, x):
            return self.stack(x)

    assert targets(trace_exactly(Holder()), "call_module") == ["stack.0", "stack.1.0"]


def test_the_model_is_untouched(model):
    before = {path: dict(vars(module)) for path, module in model.named_modules()}
    weights = copy.deepcopy(model.state_dict())
    traced = trace_exactly(model)
    traced.train()
    traced.extra = 1
    for path, module in model.named_modules():
        assert vars(module).keys() == before[path].keys()
        assert all(vars(module)[name] is value for name, value in before[path].items())
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_state_dict_keys_and_tensors_are_the_models(model):
    traced = trace_exactly(model)
    assert list(traced.state_dict()) == list(model.state_dict())
    assert [name for name, _ in traced.named_buffers()] == [name for name, _ in model.named_buffers()]
    assert all(one is other for one, other in zip(traced.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("direction", ["model to graph", "graph to model"])
def test_model_and_graph_stay_in_step_when_weights_are_moved_loaded_or_reassigned(model, direction):
    traced = trace_exactly(model)
    here, there = (model, traced) if direction == "model to graph" else (traced, model)

    def in_step(x):
        torch.testing.assert_close(there(x), here(x), rtol=0, atol=0)

    here.to(torch.float64)
    model.plain = vars(traced)["plain"] = model.plain.double()  # a plain attribute does not move with a module, in the original either
    in_step(x.double())
    here.load_state_dict({key: torch.randn_like(value) for key, value in here.state_dict().items()}, assign=True)
    in_step(x.double())
    here.offset = torch.zeros(8, dtype=torch.float64)
    here.bias = nn.Parameter(torch.ones(8, dtype=torch.float64))
    here.blocks[1].gain = nn.Parameter(torch.ones(8, dtype=torch.float64))
    here.blocks[0].shift = torch.ones(8, dtype=torch.float64)
    in_step(x.double())


def test_train_and_eval_reach_each_layer(model):
    traced = trace_exactly(model)
    traced.train()
    assert all(module.training for module in traced.modules())
    traced.blocks[0].drop.eval()
    traced.blocks[1].eval()
    assert torch.equal(traced(x), model(x))
    traced.blocks[1].train()
    assert not torch.equal(traced(x), model(x))
    assert not any(module.training for module in model.modules())


def test_training_flags_of_the_model_are_kept_per_module(model):
    model.blocks[0].train()
    traced = trace_exactly(model)
    flags = {path: module.training for path, module in traced.named_modules()}
    assert flags.pop("blocks.0.rotate")
    assert not flags.pop("blocks.1.rotate")
    assert flags == {path: module.training for path, module in model.named_modules()}


def test_hooks_of_leaves_still_run(model):
    seen = []
    model.blocks[0].norm.register_forward_hook(lambda *_: seen.append("norm"))
    trace_exactly(model)(x)
    assert seen == ["norm"]


def test_gradients_are_the_models(model):
    traced = trace_exactly(model)
    traced(x).sum().backward()
    ours = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model(x).sum().backward()
    assert all(torch.equal(one, parameter.grad) for one, parameter in zip(ours, model.parameters(), strict=True))


def test_deep_copy_has_its_own_weights_and_the_same_graph(model):
    traced = trace_exactly(model)
    twin = copy.deepcopy(traced)
    assert torch.equal(twin(x), traced(x))
    assert list(twin.state_dict()) == list(model.state_dict())
    assert [node.name for node in twin.graph.nodes] == [node.name for node in traced.graph.nodes]
    with torch.no_grad():
        twin.bias.add_(1)
    assert not torch.equal(twin(x), traced(x))


def test_pickle_keeps_graph_names_state_and_annotated_functions(model):
    traced = trace_exactly(model)
    file = io.BytesIO()
    torch.save(traced, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert str(loaded.graph) == str(traced.graph)
    assert type(loaded).__name__ == "Model"
    assert list(loaded.state_dict()) == list(model.state_dict())
    assert loaded.blocks[1].rotate.function is rotate
    assert torch.equal(loaded(x), traced(x))


def test_pickle_keeps_operators_of_torch_ops_and_slices():
    class Ops(nn.Module):
        def forward(self, x):
            return torch.ops.aten.relu.default(torch.ops.aten.neg(x))[:, 1:3, None].sum(dim=[0, 1]) * math.pi

    import pickle

    traced = trace_exactly(Ops())
    assert torch.equal(pickle.loads(pickle.dumps(traced))(x), traced(x))


@pytest.mark.parametrize("annotated", [Norm(8)], ids=["norm"])
def test_a_model_that_is_itself_annotated_is_refused(annotated):
    with pytest.raises(CaptureError, match="a Norm, is itself an annotated layer"):
        trace_exactly(annotated)


def test_a_model_that_cannot_be_traced_is_refused_with_the_path_of_the_place(model):
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    model.blocks[1].drop = Branches()
    with pytest.raises(CaptureError, match=r"blocks\.1\.drop cannot be traced: TraceError"):
        trace_exactly(model)


def test_what_the_models_code_changes_while_it_is_traced_is_put_back():
    class Cache:
        def __init__(self):
            self.values = []

    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen, self.table, self.cache, self.count = [], {}, Cache(), 0

        def forward(self, x):
            self.seen.append(x)
            self.table["x"] = x
            self.cache.values.append(x)
            self.cache.last = x
            self.count += 1
            return x + self.count

    model = Remembers()
    with pytest.raises(CaptureError, match="was changed by running the model"):
        trace_exactly(model)
    assert (model.seen, model.table, model.cache.values, model.count) == ([], {}, [], 0)
    assert not hasattr(model.cache, "last")


def test_two_threads_can_trace_at_once(model):
    results: list[object] = []

    def work():
        try:
            results.extend(len(targets(trace_exactly(Model()), "call_function")) for _ in range(10))
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [len(targets(trace_exactly(model), "call_function"))] * 30


def test_another_thread_can_run_a_model_while_one_is_traced():
    inside, outcome = threading.Event(), []
    shared = Norm(8)

    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = shared

        def forward(self, x):
            x = self.norm(x)
            inside.set()
            other.join(20)
            return x

    def run():
        inside.wait(20)
        outcome.append(rotate(shared(x), 2))

    other = threading.Thread(target=run)
    other.start()
    trace_exactly(Slow())
    assert torch.equal(outcome[0], shared(x) * 2)


def test_another_thread_can_trace_after_an_error():
    class Fails(nn.Module):
        def forward(self, x):
            raise ValueError

    with pytest.raises(CaptureError):
        trace_exactly(Fails())
    traced = []
    thread = threading.Thread(target=lambda: traced.append(trace_exactly(Model())), daemon=True)
    thread.start()
    thread.join(timeout=30)
    assert traced


def test_the_tracer_needs_no_arguments_as_torch_fx_demands():
    assert LayerTracer().path == ""
