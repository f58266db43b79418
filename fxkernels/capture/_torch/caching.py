"""AOTAutograd's cache: it takes graphs whose functions another process finds again by their names."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from torch import fx
from torch._inductor import config


@contextlib.contextmanager
def cacheable(gm: fx.GraphModule) -> Iterator[None]:
    """While a graph is compiled, let AOTAutograd's cache take it, if all our functions in it have a `cache_key`.

    The key of a graph has the import statements of its functions in it: module and qualified name, under which the very function must be
    found (torch 2.11 and 2.13). So a function gets its `cache_key` for a qualified name, and stands in its module under that for the time
    being. Inductor's list of functions that may be cached is part of the key too; it gets those of this graph only.

    Args:
        gm: A graph. Functions with an attribute `cache_key` are ours; one whose key is None rules the cache out.
    """
    ours = {
        node.target: None
        for owner in gm.modules()
        if isinstance(owner, fx.GraphModule)
        for node in owner.graph.nodes
        if node.op == "call_function" and hasattr(node.target, "cache_key")
    }
    functions: list[Any] = list(ours)
    if not functions or any(function.cache_key is None for function in functions):
        yield
        return
    allowed = {f"{function.__module__}.{function.__name__}": "" for function in functions}
    with contextlib.ExitStack() as stack:
        for function in functions:
            stack.callback(setattr, function, "__qualname__", function.__qualname__)
            function.__qualname__ = f"{function.__name__}_{function.cache_key}"
            names = vars(sys.modules[function.__module__])
            names[function.__qualname__] = function
            stack.callback(names.pop, function.__qualname__, None)
        stack.enter_context(config.patch(unsafe_marked_cacheable_functions={**config.unsafe_marked_cacheable_functions, **allowed}))
        yield
