"""Canaries for compiling in the middle of another compilation, and for what is asked of Inductor's settings."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._dynamo.utils import get_metrics_context
from torch._guards import CompileContext, TracingContext

from fxkernels.capture import _torch


def test_apart_there_is_no_compilation_and_afterwards_the_same_one() -> None:
    seen: list[Any] = []

    def backend(gm: fx.GraphModule, inputs: list[Any]) -> Any:
        around = TracingContext.try_get(), CompileContext.current_compile_id(), get_metrics_context()
        with _torch.apart():
            seen.append((TracingContext.try_get(), CompileContext.current_compile_id()))
            assert get_metrics_context() is not around[2]
        assert (TracingContext.try_get(), CompileContext.current_compile_id(), get_metrics_context()) == around
        assert around[0] is not None
        return gm

    torch.compile(lambda x: x.sin(), backend=backend)(torch.ones(3))
    assert seen == [(None, None)]


def test_apart_a_graph_can_be_compiled_and_differentiated_within_a_backend() -> None:
    def backend(gm: fx.GraphModule, inputs: list[Any]) -> Any:
        def timed() -> Any:
            x = torch.ones(3, requires_grad=True)
            compiled = _torch.timed_compiler("inductor", None, None)(fx.symbolic_trace(lambda x: (x.sin(),)), [x])
            return torch.autograd.grad(compiled(x)[0].sum(), x)

        with _torch.apart():
            (gradient,) = _torch.run_for_real(timed)
        torch.testing.assert_close(gradient, torch.ones(3).cos())
        return _torch.inner_compiler("inductor", None, None)(gm, inputs)

    x = torch.ones(3, requires_grad=True)
    output = torch.compile(lambda x: x.exp(), backend=backend)(x)
    output.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(3).exp())


def test_is_inductor_recognises_it_also_where_torch_has_wrapped_it() -> None:
    assert _torch.is_inductor("inductor")
    assert _torch.is_inductor(_torch.inner_compiler("inductor", "reduce-overhead", None))
    assert not _torch.is_inductor("eager")
    assert not _torch.is_inductor(lambda gm, inputs: gm)


def test_replays_cuda_graphs_says_what_mode_and_options_say() -> None:
    assert not _torch.replays_cuda_graphs("inductor", None, None)
    assert _torch.replays_cuda_graphs("inductor", "reduce-overhead", None)
    assert _torch.replays_cuda_graphs("inductor", "max-autotune", None)
    assert not _torch.replays_cuda_graphs("inductor", "max-autotune-no-cudagraphs", None)
    assert _torch.replays_cuda_graphs("inductor", None, {"triton.cudagraphs": True})
    assert _torch.replays_cuda_graphs(_torch.inner_compiler("inductor", "reduce-overhead", None), None, None)
    assert not _torch.replays_cuda_graphs("eager", None, None)


def test_timed_compiler_keeps_every_setting_but_that_of_cuda_graphs() -> None:
    timed: Any = _torch.timed_compiler("inductor", "max-autotune", {"epilogue_fusion": False})
    assert timed.config["triton.cudagraphs"] is False
    assert timed.config["max_autotune"] is True
    assert timed.config["epilogue_fusion"] is False


def test_timed_settings_are_the_same_with_and_without_cuda_graphs() -> None:
    assert _torch.timed_settings("inductor", "reduce-overhead", None) == _torch.timed_settings("inductor", None, None)
    assert _torch.timed_settings("inductor", "max-autotune", None) != _torch.timed_settings("inductor", None, None)
