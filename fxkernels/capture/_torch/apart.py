"""Compiling a graph in the middle of the compilation of another one, and timing what comes out, so that the other notices nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch._dynamo import utils
from torch._dynamo.metrics_context import MetricsContext
from torch._guards import compile_context, tracing
from torch._inductor import config

from .compiling import inner_compiler, unwrapped_backend

_CUDA_GRAPHS = "triton.cudagraphs"


def is_inductor(inner: str | Callable[..., Any]) -> bool:
    """Whether a compiler is Inductor, also where torch has wrapped it."""
    return inner == "inductor" or getattr(unwrapped_backend(inner)[0], "compiler_name", None) == "inductor"


def replays_cuda_graphs(inner: str | Callable[..., Any], mode: str | None, options: dict[str, Any] | None) -> bool:
    """Whether what a compiler makes is run by replaying CUDA graphs, so that nobody waits for the host."""
    if not is_inductor(inner):
        return False
    settings = _settings(inner, mode, options)
    return bool(settings.get(_CUDA_GRAPHS, config.triton.cudagraphs))


def timed_compiler(inner: str | Callable[..., Any], mode: str | None, options: dict[str, Any] | None) -> Callable[..., Any]:
    """Return a compiler as `inner_compiler` does, but one whose code uses no CUDA graphs: whoever times it captures its own."""
    if is_inductor(inner):
        return inner_compiler("inductor", None, {**timed_settings(inner, mode, options), _CUDA_GRAPHS: False})
    return inner_compiler(inner, mode, options) if isinstance(inner, str) else inner


def timed_settings(inner: str | Callable[..., Any], mode: str | None, options: dict[str, Any] | None) -> dict[str, Any]:
    """Return the settings that Inductor's mode and options stand for, without that of CUDA graphs, in the order of their names."""
    return {name: value for name, value in sorted(_settings(inner, mode, options).items()) if name != _CUDA_GRAPHS}


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Within, there is no compilation: what the one around has noted of its graph, and counts for its statistics, is neither read nor
    written (torch 2.11, 2.13)."""
    holder, name = (
        (utils._metrics_context_tls, "metrics_context") if hasattr(utils, "_metrics_context_tls") else (utils, "_METRICS_CONTEXT")
    )
    statistics = utils.get_metrics_context()
    setattr(holder, name, MetricsContext(on_exit=lambda *_: None))
    try:
        with tracing(None), compile_context(None):
            yield
    finally:
        setattr(holder, name, statistics)


def _settings(inner: str | Callable[..., Any], mode: str | None, options: dict[str, Any] | None) -> dict[str, Any]:
    wrapper: Any = inner_compiler("inductor", mode, options) if isinstance(inner, str) else unwrapped_backend(inner)[0]
    return dict(wrapper.config)
