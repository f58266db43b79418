"""Graphs as Dynamo captures them, for tests of what is looked for in graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx


def captured(function: Callable[..., Any], *args: Any, dynamic: bool | None = None) -> fx.GraphModule:
    """Return the one graph that Dynamo makes of a call, with its example values."""
    graphs: list[fx.GraphModule] = []

    def keep(gm: fx.GraphModule, _: list[Any]) -> Callable[..., Any]:
        graphs.append(gm)
        return gm.forward

    torch._dynamo.reset()
    torch.compile(function, backend=keep, fullgraph=True, dynamic=dynamic)(*args)
    (graph,) = graphs
    return graph
