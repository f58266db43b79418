"""Smaller inputs of the same kind, where the call's own are too many to probe, and the values that integers may have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from .request import Inputs, TensorSpec
from .samples import NORMAL, Sample, elements_of
from .wire import mapped

_STEP = 16
_ANY = 1 << 20


def shrunk(reference: fx.GraphModule, specs: Inputs, limit: int) -> tuple[fx.GraphModule, Inputs] | None:
    """Return the reference and inputs with fewer elements; None if there are none that the reference takes.

    Sizes that stand in a tensor of the layer stay. Of the others the largest shrinks, wherever it occurs, also in the reference. The
    smaller sizes keep the remainder by 16.

    Args:
        reference: The reference.
        specs: Its inputs.
        limit: How many elements they may have.
    """
    fixed = {size for spec in specs if isinstance(spec, TensorSpec) and spec.of_layer for size in spec.sizes}
    smaller: dict[int, int] = {}
    found = specs
    while elements_of(found) > limit:
        sizes = {size for spec in found if isinstance(spec, TensorSpec) for size in spec.sizes}
        free = [size for size in sizes - fixed if size > 2 * _STEP and size not in smaller.values()]
        if not free:
            break
        size = max(free)
        wanted = max(int(size * limit / elements_of(found)), _STEP)
        smaller[size] = wanted // _STEP * _STEP + size % _STEP
        found = tuple(_resized(spec, smaller) for spec in specs)
    if not smaller:
        return _with_fewer_rows(reference, specs, limit)
    changed = _with_sizes(reference, smaller)
    # A number in the reference may have been no size: then the kernel will differ, and the call's own sizes decide.
    return (changed, found) if _runs(_on_cpu(changed), _here(found), {}) else None


def _with_fewer_rows(reference: fx.GraphModule, specs: Inputs, limit: int) -> tuple[fx.GraphModule, Inputs] | None:
    """Where every size is one of the layer's, as with 1024 rows of 1024 numbers: shrink the largest dimension before the last one."""
    tensors = [spec for spec in specs if isinstance(spec, TensorSpec) and not spec.of_layer and len(spec.sizes) > 1]
    if not tensors:
        return None
    place, size = max(enumerate(tensors[0].sizes[:-1]), key=lambda found: found[1])
    wanted = max(int(size * limit / elements_of(specs)), _STEP) // _STEP * _STEP + size % _STEP
    if size <= 2 * _STEP or wanted >= size:
        return None

    def resized(spec: Any) -> Any:
        if not isinstance(spec, TensorSpec) or spec.of_layer or len(spec.sizes) <= place + 1 or spec.sizes[place] != size:
            return spec
        sizes = (*spec.sizes[:place], wanted, *spec.sizes[place + 1 :])
        return replace(spec, sizes=sizes, strides=_dense_like(spec, sizes) or spec.strides)

    found = tuple([resized(spec) for spec in specs])
    return (reference, found) if _runs(_on_cpu(reference), _here(found), {}) else None


def integer_highs(reference: fx.GraphModule, specs: Inputs) -> dict[int, int] | str:
    """Return, for each integer input, the number below which its values have to stay so that the reference runs.

    That is tried out: an index beyond the end of what it indexes is an error of the reference. Where any number will do, it is a small one.
    A phrase comes back where the reference takes none.
    """
    places = [n for n, spec in enumerate(specs) if isinstance(spec, TensorSpec) and _is_integer(spec.dtype)]
    if not places:
        return {}
    here = _here(specs)
    function = _on_cpu(reference)
    sizes = sorted({size for spec in here if isinstance(spec, TensorSpec) for size in spec.sizes if size > 1}, reverse=True)
    highs = dict.fromkeys(places, 1)
    if not _runs(function, here, highs):
        return "the layer takes no integers that were tried"
    for place in places:
        most = torch.iinfo(here[place].dtype).max
        if _runs(function, here, {**highs, place: min(_ANY, most)}):
            highs[place] = min([most, *sizes], default=2) if most > 255 else most
            continue
        highs[place] = next((size for size in sizes if size <= most and _runs(function, here, {**highs, place: size})), 1)
    return highs


def _here(specs: Inputs) -> Inputs:
    return tuple(replace(spec, device="cpu", requires_grad=False) if isinstance(spec, TensorSpec) else spec for spec in specs)


def _is_integer(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype is torch.bool)


def _runs(function: fx.GraphModule, specs: Inputs, highs: dict[int, int]) -> bool:
    inputs = Sample.of(specs).fill(0, NORMAL[0], dict.fromkeys(range(len(specs)), 1) | highs).views()
    for place, high in highs.items():
        inputs[place] = torch.full_like(inputs[place], high - 1)
    try:
        with torch.no_grad():
            function(*inputs)
    except Exception:  # an index out of range, and whatever else a layer objects to
        return False
    return True


def _on_cpu(reference: fx.GraphModule) -> fx.GraphModule:
    """The reference for inputs on the CPU: an index out of range kills a GPU's context."""
    graph = fx.Graph()
    nodes: dict[fx.Node, fx.Node] = {}
    for node in reference.graph.nodes:
        copy = nodes[node] = graph.node_copy(node, nodes.__getitem__)
        copy.args, copy.kwargs = mapped((tuple(copy.args), dict(copy.kwargs)), torch.device, lambda _: torch.device("cpu"))
        if node.op == "call_method" and node.target == "cuda":
            copy.target = "cpu"
            copy.args = copy.args[:1]
    return fx.GraphModule(reference, graph)


def _resized(spec: Any, smaller: dict[int, int]) -> Any:
    if not isinstance(spec, TensorSpec):
        return smaller.get(spec, spec) if type(spec) is int else spec
    sizes = tuple(smaller.get(size, size) for size in spec.sizes)
    return replace(spec, sizes=sizes, strides=_dense_like(spec, sizes) or spec.strides)


def _dense_like(spec: TensorSpec, sizes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Strides in the same order without gaps, if there were none before."""
    order = sorted(range(len(sizes)), key=lambda dimension: (spec.strides[dimension], dimension == 0))
    before, after = 1, 1
    strides = [0] * len(sizes)
    for dimension in order:
        if spec.sizes[dimension] != 1 and spec.strides[dimension] != before:
            return None
        strides[dimension] = after
        before, after = before * spec.sizes[dimension], after * sizes[dimension]
    return tuple(strides)


def _with_sizes(reference: fx.GraphModule, smaller: dict[int, int]) -> fx.GraphModule:
    graph = fx.Graph()
    nodes: dict[fx.Node, fx.Node] = {}
    for node in reference.graph.nodes:
        copy = nodes[node] = graph.node_copy(node, nodes.__getitem__)
        if node.op in ("call_function", "call_method"):
            copy.args, copy.kwargs = mapped(
                (tuple(copy.args), dict(copy.kwargs)), int, lambda n: smaller.get(n, n) if type(n) is int else n
            )
    return fx.GraphModule(reference, graph)
