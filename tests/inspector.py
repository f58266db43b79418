"""Looking into frames while Dynamo traces them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import fx, nn
from torch._dynamo.testing import CompileCounter

from fxkernels.capture import _torch

X = torch.ones(3)


def look(*values: Any) -> Any:
    """While a frame is traced, a call of this lets the test look at the frame and at the arguments."""
    return values[0] if values else None


def break_graph(value: torch.Tensor) -> torch.Tensor:
    """The same, but tracing ends inside it."""
    torch._dynamo.graph_break()
    return value


class Inspector:
    """An observer that does nothing outside of `inspected`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.examine: Callable[..., Any] | None = None
        self.on_frame: Callable[[_torch.Frame], None] | None = None
        self.found: list[Any] = []
        self.log: list[tuple[Any, ...]] = []

    def frame_begins(self, frame: _torch.Frame) -> Any:
        if self.on_frame is not None:
            self.on_frame(frame)
        return "frame"

    def frame_ends(self, frame: _torch.Frame, token: Any, result: _torch.Variable) -> None:
        self.log.append(("frame", token, result is not None))

    def call_begins(self, frame: _torch.Frame, function: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if function not in (look, break_graph):
            return None
        if self.examine is not None:
            try:
                self.found.append(self.examine(frame, *args))
            except Exception as error:  # Dynamo would take it for a reason to fall back
                self.found.append(error)
        return "call"

    def call_ends(self, frame: _torch.Frame, token: Any, result: _torch.Variable | None) -> None:
        self.log.append(("call", token, result is not None))


INSPECTOR = Inspector()


def inspected(function: Callable[..., Any], *inputs: Any, examine: Callable[..., Any], **options: Any) -> Any:
    """Compile and call a function that calls `look`; return what `examine` makes of the frame and the arguments of the (last) call."""
    INSPECTOR.examine = examine
    torch.compile(function, backend="eager", **options)(*inputs)
    found = INSPECTOR.found[-1]
    if isinstance(found, Exception):
        raise found
    return found


def graphs_of(function: Callable[..., Any], *inputs: Any) -> list[fx.GraphModule]:
    graphs = []

    def backend(gm: fx.GraphModule, example_inputs: list[Any]) -> Any:
        graphs.append(gm)
        return gm.forward

    torch.compile(function, backend=backend)(*inputs)
    return graphs


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.names = ("a", "b")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        look(self)
        return self.linear(x)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[0](x)


def graphs_for_any_settings(examine: Callable[..., Any]) -> int:
    """How many graphs a function gets that ignores its second argument, called with three kinds of it."""

    def function(x: torch.Tensor, settings: Any) -> torch.Tensor:
        look()
        return x + 1

    counter = CompileCounter()
    INSPECTOR.examine = examine
    compiled = torch.compile(function, backend=counter)
    for settings in (SimpleNamespace(a=1), {"b": 2}, [3]):
        compiled(X, settings)
    return counter.frame_count
