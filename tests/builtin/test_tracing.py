"""Built-in kernel layers hold what `can_torch_compile` promises: one graph, with fake tensors, forward and backward."""

from __future__ import annotations

import pytest
import torch
from tolerances import tolerance
from torch._subclasses.fake_tensor import FakeTensorMode


def differentiated(tensors):
    return [tensor for tensor in tensors if tensor.requires_grad]


# Dynamo makes an instance of autograd.Function where it traces one (torch 2.13).
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("dynamic", [False, True])
def test_forward_and_backward_trace_into_one_graph(case, dynamic):
    tensors = case.tensors(torch.float32)
    compiled = torch.compile(case.kernel, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    outputs, expected = compiled(*tensors), case.kernel(*tensors)
    grads = [torch.randn_like(output) for output in outputs]
    got = torch.autograd.grad(outputs, differentiated(tensors), grads)
    wanted = torch.autograd.grad(expected, differentiated(tensors), grads)
    for a, b in zip((*outputs, *got), (*expected, *wanted), strict=True):
        torch.testing.assert_close(a, b, **tolerance(torch.float32))


def test_inference_traces_into_one_graph_without_an_autograd_function(case):
    tensors = [tensor.detach() for tensor in case.tensors(torch.float32)]
    graphs = []

    def keep(graph_module, _):
        graphs.append(graph_module)
        return graph_module

    compiled = torch.compile(case.kernel, backend=keep, fullgraph=True)
    assert all(torch.equal(a, b) for a, b in zip(compiled(*tensors), case.kernel(*tensors), strict=True))
    assert len(graphs) == 1
    assert not list(graphs[0].graph.find_nodes(op="call_function", target=torch.ops.higher_order.autograd_function_apply))


def test_one_graph_serves_several_sizes(case):
    graphs = []

    def keep(graph_module, _):
        graphs.append(graph_module)
        return graph_module

    compiled = torch.compile(case.kernel, backend=keep, fullgraph=True, dynamic=True)
    for batch in (2, 3, 5):
        tensors = [tensor.detach() for tensor in case.tensors(torch.float32, batch)]
        assert all(torch.equal(a, b) for a, b in zip(compiled(*tensors), case.kernel(*tensors), strict=True))
    assert len(graphs) == 1


def test_fake_tensors_give_the_real_metadata(case, dtype):
    real = case.tensors(dtype)
    with FakeTensorMode() as mode:
        fake = case.kernel(*(mode.from_tensor(tensor) for tensor in real))
    for a, b in zip(fake, case.kernel(*real), strict=True):
        assert (a.shape, a.dtype, a.stride(), a.requires_grad) == (b.shape, b.dtype, b.stride(), b.requires_grad)
