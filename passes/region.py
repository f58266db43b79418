"""Gates on a region: may these nodes be taken out of the graph and one call put in their place?

Each gate answers one question with a `Miss` or None. What a value *is* (its storage, its sizes) is read from the example value that
capture left in `node.meta["example_value"]`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import sympy
import torch
from torch import fx

from .layer_call import LayerCall, is_marker
from .miss import Miss

_Packet, _Overload = type(torch.ops.aten.add), type(torch.ops.aten.add.Tensor)  # torch has no public name for these types

_IN_PLACE_OPERATORS = frozenset(
    getattr(operator, f"i{name}")
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift", "matmul")
) | {operator.setitem, operator.delitem}

_RANDOM_NAMES = frozenset(
    "rand rand_like randn randn_like randint randint_like randperm normal normal_ uniform_ bernoulli bernoulli_ multinomial poisson "
    "exponential_ geometric_ log_normal_ cauchy_ random_ dropout dropout_ alpha_dropout feature_dropout feature_alpha_dropout dropout1d "
    "dropout2d dropout3d rrelu rrelu_ gumbel_softmax native_dropout".split()
)


def example(node: fx.Node) -> Any:
    """The fake value that capture computed for the node, or None."""
    return node.meta.get("example_value")


def ends_in_this_graph(call: LayerCall) -> Miss | None:
    """Both markers must be in one graph."""
    if call.leave is not None:
        return None
    return Miss("graph_break", "the call begins in this graph and ends in another one")


def mutates_nothing_outside(call: LayerCall) -> Miss | None:
    """No node may write into memory that exists outside of the region."""
    outside: set[int] | None = None
    for node in call.region:
        for target in _written(node):
            if outside is None:
                outside = _storages(_external(call))
            value = example(target)
            if not isinstance(value, torch.Tensor) or _storage(value) in outside:
                return Miss(
                    "mutation", "{node} writes into {target}, which exists outside of the call", {"node": node.name, "target": target.name}
                )
    return None


def draws_no_random_numbers(call: LayerCall) -> Miss | None:
    """A kernel that draws other random numbers, or none, is another function."""
    for node in call.region:
        if _is_random(node):
            return Miss("random", "{node} draws random numbers", {"node": node.name})
    return None


def escapes_only_as_output(call: LayerCall) -> Miss | None:
    """No value of the region may be used outside, except the call's output."""
    outputs = frozenset(call.outputs)
    for node in call.region:
        if node in outputs:
            continue
        for user in node.users:
            if user not in call.inside and not is_marker(user):
                return Miss(
                    "escape", "{node} is computed inside the call and used outside by {user}", {"node": node.name, "user": user.name}
                )
    return None


def returns_a_new_tensor(call: LayerCall) -> Miss | None:
    """The output must be computed by the region; an output that shares memory with an input would stop doing so."""
    computed = [node for node in call.outputs if node in call.inside]
    if not computed:
        return Miss("output_metadata", "the call returns no tensor that it computed")
    outside: set[int] | None = None
    for node in computed:
        value = example(node)
        if not isinstance(value, torch.Tensor):
            continue
        if outside is None:
            outside = _storages(call.marked_inputs)
        if _storage(value) in outside:
            return Miss("output_metadata", "the output {node} is a view of an input; a kernel's would not be", {"node": node.name})
    return None


def reads_only_what_is_marked(call: LayerCall) -> Miss | None:
    """The region's inputs must be the marked arguments, the layer's tensors, and sizes of those."""
    marked = frozenset(call.marked_inputs)
    symbols: frozenset[sympy.Symbol] | None = None
    for node in _external(call):
        if node in marked:
            continue
        value = example(node)
        if isinstance(value, torch.SymInt):
            if symbols is None:
                symbols = frozenset().union(*(_symbols(example(n)) for n in call.marked_inputs))
            if value.node.expr.free_symbols <= symbols:
                continue
        return Miss("state", "it reads {node}, which is neither an argument nor a tensor of the layer", {"node": node.name})
    return None


GATES: tuple[Callable[[LayerCall], Miss | None], ...] = (
    ends_in_this_graph,
    mutates_nothing_outside,
    draws_no_random_numbers,
    escapes_only_as_output,
    returns_a_new_tensor,
    reads_only_what_is_marked,
)
"""The region's gates, in the order in which they are asked."""


def why_not_replaceable(call: LayerCall) -> Miss | None:
    """Return the first miss of the region's gates, or None if a kernel may take the region's place."""
    for gate in GATES:
        miss = gate(call)
        if miss is not None:
            return miss
    return None


def _external(call: LayerCall) -> Iterable[fx.Node]:
    """Values from outside that the region reads, each once."""
    return dict.fromkeys(n for node in call.region if not is_marker(node) for n in node.all_input_nodes if n not in call.inside)


def external_inputs(call: LayerCall) -> tuple[fx.Node, ...]:
    """Marked inputs first, then whatever else the region reads (sizes, as `reads_only_what_is_marked` has checked)."""
    return tuple(dict.fromkeys((*call.marked_inputs, *_external(call))))


def _written(node: fx.Node) -> tuple[fx.Node, ...]:
    """The graph values into which the node writes."""
    if node.op not in ("call_function", "call_method") or is_marker(node):
        return ()
    out = node.kwargs.get("out")
    if out is not None:
        return tuple(n for n in (out if isinstance(out, tuple | list) else (out,)) if isinstance(n, fx.Node))
    if isinstance(node.target, _Overload | _Packet):
        return _written_by_schema(node)
    if not _writes_first_argument(node):
        return ()
    return tuple(n for n in node.args[:1] if isinstance(n, fx.Node))


def _writes_first_argument(node: fx.Node) -> bool:
    if node.op == "call_function" and node.target in _IN_PLACE_OPERATORS:
        return True
    if node.kwargs.get("inplace"):
        return True
    name = _name(node)
    return name.endswith("_") and not name.endswith("__")


def _written_by_schema(node: fx.Node) -> tuple[fx.Node, ...]:
    """Operators from `torch.ops` say in their schema which arguments they write."""
    target: Any = node.target
    overloads = [getattr(target, name) for name in target.overloads()] if isinstance(target, _Packet) else [target]
    written: dict[fx.Node, None] = {}
    for overload in overloads:
        for position, argument in enumerate(overload._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            if isinstance(value, fx.Node):
                written[value] = None
    return tuple(written)


def _is_random(node: fx.Node) -> bool:
    if node.op not in ("call_function", "call_method"):
        return False
    if isinstance(node.target, _Overload):
        return torch.Tag.nondeterministic_seeded in node.target.tags
    name = _name(node)
    if name not in _RANDOM_NAMES:
        return name == "scaled_dot_product_attention" and _dropout_probability(node) != 0
    training = node.kwargs.get("training", node.args[2] if name.endswith("dropout") and len(node.args) > 2 else True)
    return bool(training)


def _dropout_probability(node: fx.Node) -> Any:
    return node.kwargs.get("dropout_p", node.args[4] if len(node.args) > 4 else 0)


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _storages(nodes: Iterable[fx.Node]) -> set[int]:
    return {_storage(value) for value in map(example, nodes) if isinstance(value, torch.Tensor)}


def _symbols(value: Any) -> frozenset[sympy.Symbol]:
    if isinstance(value, torch.SymInt):
        return frozenset(value.node.expr.free_symbols)
    if not isinstance(value, torch.Tensor):
        return frozenset()
    sizes = (*value.shape, *value.stride(), value.storage_offset())
    return frozenset().union(*(s.node.expr.free_symbols for s in sizes if isinstance(s, torch.SymInt)))
