"""Canaries for compiling a graph in the middle of the compilation of another one."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._dynamo.utils import get_metrics_context
from torch._guards import CompileContext, TracingContext

from fxkernels.capture import _torch


def test_isolated_compile_there_is_no_compilation_and_afterwards_the_same_one() -> None:
    seen: list[Any] = []

    def backend(gm: fx.GraphModule, inputs: list[Any]) -> Any:
        around = TracingContext.try_get(), CompileContext.current_compile_id(), get_metrics_context()
        with _torch.isolated_compile():
            seen.append((TracingContext.try_get(), CompileContext.current_compile_id()))
            assert get_metrics_context() is not around[2]
        assert (TracingContext.try_get(), CompileContext.current_compile_id(), get_metrics_context()) == around
        assert around[0] is not None
        return gm

    torch.compile(lambda x: x.sin(), backend=backend)(torch.ones(3))
    assert seen == [(None, None)]


def test_isolated_compile_a_graph_can_be_compiled_and_differentiated_within_a_backend() -> None:
    def backend(gm: fx.GraphModule, inputs: list[Any]) -> Any:
        def timed() -> Any:
            x = torch.ones(3, requires_grad=True)
            compiled = _torch.timed_compiler("inductor", None, None)(fx.symbolic_trace(lambda x: (x.sin(),)), [x])
            return torch.autograd.grad(compiled(x)[0].sum(), x)

        with _torch.isolated_compile():
            (gradient,) = _torch.run_for_real(timed)
        torch.testing.assert_close(gradient, torch.ones(3).cos())
        return _torch.inner_compiler("inductor", None, None)(gm, inputs)

    x = torch.ones(3, requires_grad=True)
    output = torch.compile(lambda x: x.exp(), backend=backend)(x)
    output.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(3).exp())
