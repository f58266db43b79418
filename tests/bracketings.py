"""What models do: operations, and bracketed sequences of them, in any nesting."""

from __future__ import annotations

import torch
from graphs import GraphBuilder, norm_operations
from hypothesis import strategies as st
from torch import fx

UNARY = (torch.sin, torch.cos, torch.tanh, torch.neg)


@st.composite
def layers(draw: st.DrawFn) -> list:
    """A sequence of operations and bracketed sequences of them: what a model does."""
    return draw(
        st.recursive(
            st.lists(st.sampled_from(UNARY), max_size=3),
            lambda inner: st.lists(st.one_of(st.sampled_from(UNARY), st.just("norm"), st.tuples(st.booleans(), inner)), max_size=4),
            max_leaves=6,
        )
    )


def build_layers(items: list, *, markers: bool) -> tuple[fx.GraphModule, list[str]]:
    """A graph of these layers, and their paths. A bracketed layer returns one tensor, or also the sum of that and its argument."""
    build = GraphBuilder(markers=markers)
    x, weight = build.tensor("x", 2, 8), build.tensor("weight", 8)
    paths: list[str] = []

    def append(items: list, x: fx.Node) -> fx.Node:
        for item in items:
            if item == "norm":
                x = norm_operations(build, x, weight)
            elif not isinstance(item, tuple):
                x = build(item, x)
            else:
                paths.append(f"layer{len(paths)}")
                with build.layer(paths[-1], x, tensors={"weight": weight}) as layer:
                    y = build(torch.exp, append(item[1], x))
                    layer.returns(*((y, build(torch.add, x, y)) if item[0] else (y,)))
                x = build(torch.mul, *layer.outputs) if item[0] else layer.output
        return x

    return build.module(append(items, x)), paths
