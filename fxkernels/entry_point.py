"""The entry point of `torch.compile(backend="hubkernels")`.

Torch imports this module when a program first names the backend. Capture is installed into Dynamo when the backend is first used. Before
2.15 torch does not say when that is, so it is installed at once.
"""

from __future__ import annotations

import threading
from typing import Any

from torch import fx

from .backend import HubKernels
from .capture import dynamo
from .options import Options

dynamo.install_early()

_ATTRIBUTE = "_fxkernels_backend"
_compiling = threading.local()


def compile_graph(gm: fx.GraphModule, example_inputs: list[Any], *, mode: str | None = None, options: dict[str, Any] | None = None) -> Any:
    """Compile one graph of a model that was compiled with ``backend="hubkernels"``.

    Args:
        gm: The captured graph.
        example_inputs: Its inputs.
        mode: ``mode=`` of `torch.compile`, for the inner compiler.
        options: ``options=`` of `torch.compile`, see `fxkernels.hubkernels`.

    Raises:
        ValueError: For an unknown option.
    """
    backend = getattr(_compiling, "backend", None)
    if backend is None:  # a graph that was passed directly, without capture
        backend = HubKernels(Options.of(**(options or {})))
    _compiling.backend = None
    return backend(gm, example_inputs, mode=mode)


def _backend_for(wrapper: Any) -> HubKernels:
    """Return the backend of one `torch.compile` call. It is kept on torch's object for that call, so that its graphs share one report."""
    backend = getattr(wrapper, _ATTRIBUTE, None)
    if backend is None:
        options = getattr(wrapper, "kwargs", {}).get("options")
        backend = HubKernels(Options.of(**(options or {})))
        if wrapper is not compile_graph:
            setattr(wrapper, _ATTRIBUTE, backend)
    _compiling.backend = backend
    return backend


compile_graph.hubkernels_for = _backend_for  # type: ignore[attr-defined]
compile_graph._dynamo_backend_init = dynamo.install  # type: ignore[attr-defined]
