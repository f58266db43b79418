"""Canary for AOTAutograd's cache. That it is hit in another process is shown in tests/compiling/test_caches.py."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import fx
from torch._inductor import config

from fxkernels.capture import _torch


class Ours:
    """A callable as it stands in our graphs."""

    def __init__(self, cache_key: str | None) -> None:
        self.cache_key = cache_key
        self.__name__ = self.__qualname__ = "ours"
        self.__module__ = __name__

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x


def graph_of(*functions: Any) -> fx.GraphModule:
    graph = fx.Graph()
    x = graph.placeholder("x")
    for function in functions:
        x = graph.call_function(function, (x,))
    graph.output(x)
    return fx.GraphModule(torch.nn.Module(), graph)


def test_cacheable_names_our_functions_and_takes_it_back() -> None:
    one, other = Ours("1a"), Ours("2b")
    before = dict(config.unsafe_marked_cacheable_functions)
    with _torch.cacheable(graph_of(one, torch.sin, other)):
        names = vars(sys.modules[__name__])
        assert names[one.__qualname__] is one
        assert names[other.__qualname__] is other
        assert one.__qualname__ == "ours_1a"
        assert config.unsafe_marked_cacheable_functions == {**before, f"{__name__}.ours": ""}
    assert one.__qualname__ == "ours"
    assert "ours_1a" not in vars(sys.modules[__name__])
    assert config.unsafe_marked_cacheable_functions == before


def test_cacheable_leaves_a_graph_alone_in_which_one_of_our_functions_has_no_key() -> None:
    keyed = Ours("1a")
    with _torch.cacheable(graph_of(keyed, Ours(None))):
        assert keyed.__qualname__ == "ours"
        assert f"{__name__}.ours" not in config.unsafe_marked_cacheable_functions


def test_cacheable_leaves_a_graph_without_our_functions_alone() -> None:
    before = dict(config.unsafe_marked_cacheable_functions)
    with _torch.cacheable(graph_of(torch.sin)):
        assert config.unsafe_marked_cacheable_functions == before
