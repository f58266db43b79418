"""Canaries for inner compilers and their settings."""

from __future__ import annotations

from typing import Any

import torch
from inspector import X, graphs_of
from torch._dynamo.backends.registry import lookup_backend
from torch._dynamo.testing import CompileCounter

from fxkernels.capture import _torch


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


def test_inner_compiler_is_the_one_that_compile_would_call() -> None:
    counter = CompileCounter()
    (graph,) = graphs_of(lambda x: x.sin(), X)
    compiled = _torch.inner_compiler(counter, None, None)(graph, [X])
    assert torch.equal(compiled(X)[0], X.sin())
    assert counter.frame_count == 1


def test_inner_compiler_takes_the_mode_and_options_of_inductor() -> None:
    compiler = _torch.inner_compiler("inductor", None, {"epilogue_fusion": False})
    assert compiler.config["epilogue_fusion"] is False


def test_is_eager_is_true_of_the_eager_backend_only() -> None:
    assert [_torch.is_eager(inner) for inner in ("eager", lookup_backend("eager"), "aot_eager", CompileCounter())] == [
        True,
        True,
        False,
        False,
    ]
