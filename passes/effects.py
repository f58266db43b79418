"""What one operation of a graph does besides computing a value: which memory it writes, and whether it draws random numbers.

Dynamo's graphs call what the model called: functions and methods of torch, which say what they do by name and arguments, and operators of
`torch.ops`, which say it in their schema.
"""

from __future__ import annotations

import operator
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import fx

from .example_values import example, has_plain_storage, tensors_in

# torch has no public name for these types.
_Packet: Any = type(torch.ops.aten.add)
_Overload: Any = type(torch.ops.aten.add.Tensor)

_IN_PLACE_OPERATORS = frozenset(
    getattr(operator, f"i{name}")
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift", "matmul")
) | {operator.setitem, operator.delitem}

_RANDOM_NAMES = frozenset(
    "rand rand_like randn randn_like randint randint_like randperm normal normal_ uniform_ bernoulli bernoulli_ multinomial poisson "
    "binomial exponential_ geometric_ log_normal_ cauchy_ random_ gumbel_softmax fractional_max_pool2d fractional_max_pool3d "
    "_standard_gamma _sample_dirichlet miopen_rnn".split()
)

# Random only in training: the position of that argument, which is named `training` or `train`.
_TRAINING_POSITIONS: dict[str, int] = {
    **dict.fromkeys("dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout native_dropout".split(), 2),
    **dict.fromkeys("dropout_ alpha_dropout_ feature_dropout_ feature_alpha_dropout_".split(), 2),
    **dict.fromkeys("rrelu rrelu_".split(), 3),
    **dict.fromkeys("lstm gru rnn_tanh rnn_relu".split(), 6),
    "multi_head_attention_forward": 13,
}

# Where the functions live that do nothing but what their name says: compute new memory, make a view, or write into an argument.
_MODULES = frozenset(
    "torch torch.functional torch.nn.functional torch._C._nn torch._C._linalg torch._C._special torch._C._fft"
    " _operator builtins math".split()
)
_FOREIGN_MEMORY = frozenset("from_numpy frombuffer from_dlpack asarray numpy data_ptr untyped_storage storage".split())


def is_known(node: fx.Node) -> bool:
    """Return whether a node does nothing that `written_by`, `draws_random_numbers` and its example value do not show.

    It then keeps nothing that it is given, and shares memory only as its example value says. An operation of unknown kind (a function of
    somebody's module, a higher-order operator with a graph inside, a switch such as that of autocast) may do anything.
    """
    if node.op not in ("call_function", "call_method"):
        return node.op in ("placeholder", "get_attr", "output")
    tensors = (tensor for value in (node, *node.all_input_nodes) for tensor in tensors_in(example(value)))
    if not all(map(has_plain_storage, tensors)) or name_of(node) in _FOREIGN_MEMORY:
        return False
    if node.op == "call_method":
        return hasattr(torch.Tensor, name_of(node))
    target: Any = node.target
    return is_operator(target) or (isinstance(target, BuiltinFunctionType | FunctionType) and target.__module__ in _MODULES)


def written_by(node: fx.Node) -> tuple[fx.Node, ...]:
    """Return the graph values into whose memory a `call_function` or `call_method` node writes."""
    out = node.kwargs.get("out")
    if out is not None:
        return _nodes(out)
    if is_operator(node.target):
        return _written_by_schema(node)
    name = name_of(node)
    if name.endswith("_") and not name.endswith("__"):
        return _first_argument(node)
    if type(node.target) is FunctionType:
        return _written_by_option(node, name)
    if node.target in _IN_PLACE_OPERATORS or node.kwargs.get("inplace"):
        return _first_argument(node)
    return ()


def draws_random_numbers(node: fx.Node) -> bool:
    """Return whether a `call_function` or `call_method` node draws random numbers."""
    if isinstance(node.target, _Overload):
        return torch.Tag.nondeterministic_seeded in node.target.tags
    name = name_of(node)
    if name in _TRAINING_POSITIONS:
        return _trains(node, _TRAINING_POSITIONS[name]) and not ("dropout" in name and _probability(node) == 0)
    return name in _RANDOM_NAMES or (name == "scaled_dot_product_attention" and _dropout_probability(node) != 0)


def is_operator(target: Any) -> bool:
    """Return whether a node's target is an operator of `torch.ops`, which has a schema."""
    return isinstance(target, (_Overload, _Packet))  # a union of types would cost more


def name_of(node: fx.Node) -> str:
    """Return the name of the function or method that a node calls."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _written_by_schema(node: fx.Node) -> tuple[fx.Node, ...]:
    target: Any = node.target
    overloads = [getattr(target, name) for name in target.overloads()] if isinstance(target, _Packet) else [target]
    written: dict[fx.Node, None] = {}
    for overload in overloads:
        for position, argument in enumerate(overload._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                value = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
                written.update(dict.fromkeys(_nodes(value)))
    return tuple(written)


def _written_by_option(node: fx.Node, name: str) -> tuple[fx.Node, ...]:
    """Functions of `torch.nn.functional` that write only if they are asked to. Modules pass the question by position."""
    if _argument(node, "inplace"):
        return _first_argument(node)
    if name in ("batch_norm", "instance_norm") and (_argument(node, "training") or _argument(node, "use_input_stats")):
        return _nodes((_argument(node, "running_mean"), _argument(node, "running_var")))
    if name in ("embedding", "embedding_bag") and _argument(node, "max_norm") is not None:
        return _nodes(_argument(node, "weight"))
    return ()


def _argument(node: fx.Node, name: str) -> Any:
    """The argument of a Python function by its name, or its default; None if the function has none of this name."""
    if name in node.kwargs:
        return node.kwargs[name]
    function: Any = node.target
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    if name not in names:
        return None
    position = names.index(name)
    if position < len(node.args):
        return node.args[position]
    defaults = function.__defaults__ or ()
    return defaults[position - len(names)] if len(names) - position <= len(defaults) else None


def _first_argument(node: fx.Node) -> tuple[fx.Node, ...]:
    return _nodes(node.args[0]) if node.args else tuple(node.all_input_nodes)


def _nodes(value: Any) -> tuple[fx.Node, ...]:
    return tuple(item for item in (value if isinstance(value, tuple | list) else (value,)) if isinstance(item, fx.Node))


def _trains(node: fx.Node, position: int) -> bool:
    for name in ("training", "train"):
        if name in node.kwargs:
            return bool(node.kwargs[name])
    return bool(node.args[position]) if len(node.args) > position else True


def _probability(node: fx.Node) -> Any:
    """Of a dropout function; with 0 it hands its input through and draws nothing."""
    return node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)


def _dropout_probability(node: fx.Node) -> Any:
    return node.kwargs.get("dropout_p", node.args[4] if len(node.args) > 4 else 0)
