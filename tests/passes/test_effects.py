"""What operations do besides computing a value, seen by the gates of a region that contains them."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from graphs import GraphBuilder, code, miss_of, only_call, then
from torch import fx

from fxkernels.passes.effects import draws_random_numbers
from fxkernels.passes.miss import Miss
from fxkernels.passes.region import why_not_replaceable

Operations = Callable[[GraphBuilder, fx.Node], fx.Node]

# --- mutation ---------------------------------------------------------------------------------------------------------------------------

WRITES: dict[str, Operations] = {
    "in-place method": lambda b, x: then(b(torch.sin, x), b.method("mul_", x, 2)),
    "in-place function": lambda b, x: then(b(torch.sin, x), b(torch.relu_, x)),
    "in-place function by keyword": lambda b, x: then(b(torch.sin, x), b(torch.relu_, input=x)),
    "in-place function on a list": lambda b, x: then(b(torch.sin, x), b(torch._foreach_add_, [x], 1)),
    "out=": lambda b, x: then(b(torch.sin, x), b(torch.cos, x, out=x)),
    "out= of several": lambda b, x: then(b(torch.sin, x), b(torch.frexp, x, out=(x, b(torch.zeros, 4, 8, dtype=torch.int32)))),
    "inplace=True": lambda b, x: then(b(torch.sin, x), b(F.relu, x, inplace=True)),
    "inplace=True by position": lambda b, x: then(b(torch.sin, x), b(F.leaky_relu, x, 0.1, True)),
    "setitem": lambda b, x: then(b(torch.sin, x), b(operator.setitem, x, 0, 0.0)),
    "in-place operator": lambda b, x: then(b(torch.sin, x), b(operator.imul, x, 2)),
    "operator of torch.ops": lambda b, x: then(b(torch.sin, x), b(torch.ops.aten.add_.Tensor, x, x)),
    "operator of torch.ops without overload": lambda b, x: then(b(torch.sin, x), b(torch.ops.aten.add_, x, x)),
    "operator of torch.ops on a list": lambda b, x: then(b(torch.sin, x), b(torch.ops.aten._foreach_add_.Scalar, [x], 1)),
    "through a view": lambda b, x: then(b(torch.sin, x), b.method("mul_", b.method("view", x, 32), 2)),
    "through a view of a view": lambda b, x: then(b(torch.sin, x), b.method("mul_", b.method("t", b(operator.getitem, x, 0)), 2)),
}


@pytest.mark.parametrize("write", WRITES)
def test_write_to_an_argument_is_a_mutation(write: str) -> None:
    assert code(miss_of(WRITES[write])) == "mutation"


HARMLESS: dict[str, Operations] = {
    "in-place method": lambda b, x: b.method("mul_", b(torch.sin, x), 2),
    "out=": lambda b, x: b(torch.cos, x, out=b(torch.empty_like, x)),
    "inplace=True": lambda b, x: b(F.relu, b(torch.sin, x), inplace=True),
    "inplace=True by position": lambda b, x: b(F.leaky_relu, b(torch.sin, x), 0.1, True),
    "setitem": lambda b, x: then(y := b(torch.sin, x), b(operator.setitem, y, 0, 0.0)),
    "in-place operator": lambda b, x: b(operator.iadd, b(torch.sin, x), x),
    "operator of torch.ops": lambda b, x: b(torch.ops.aten.add_.Tensor, b(torch.sin, x), x),
    "through a view": lambda b, x: then(y := b(torch.sin, x), b.method("zero_", b.method("view", y, 32))),
}


@pytest.mark.parametrize("write", HARMLESS)
def test_write_to_a_tensor_that_the_call_made_is_none(write: str) -> None:
    assert miss_of(HARMLESS[write]) is None


NO_WRITES: dict[str, Operations] = {
    "inplace=False": lambda b, x: b(F.relu, x, inplace=False),
    "inplace=False by position": lambda b, x: b(F.leaky_relu, x, 0.1, False),
    "double underscore": lambda b, x: b.method("__add__", x, x),
    "functional operator of torch.ops": lambda b, x: b(torch.ops.aten.add.Tensor, x, x),
    "embedding": lambda b, x: b(F.embedding, b(torch.zeros, 3, dtype=torch.long), x),
}


@pytest.mark.parametrize("call", NO_WRITES)
def test_operation_that_only_looks_like_a_write_is_none(call: str) -> None:
    assert miss_of(NO_WRITES[call]) is None


def test_mutation_names_what_writes_and_what_is_written() -> None:
    miss = miss_of(WRITES["in-place method"])
    assert miss is not None
    assert miss.message == "mul_ writes into x, which exists outside of the call"


def test_write_to_a_constant_of_the_graph_is_a_mutation() -> None:
    assert code(miss_of(lambda b, x: b(torch.add, x, b.method("add_", b.constant("seen", torch.zeros(8)), 1)))) == "mutation"


def batch_norm(*, training: bool) -> Miss | None:
    build = GraphBuilder()
    x, mean, var = build.tensor("x", 4, 8), build.tensor("mean", 8), build.tensor("var", 8)
    with build.layer("layer", x, tensors={"running_mean": mean, "running_var": var}) as layer:
        layer.returns(build(F.batch_norm, x, mean, var, None, None, training))
    return why_not_replaceable(only_call(build.finish(layer.output)))


def test_batch_norm_writes_its_running_statistics_in_training_only() -> None:
    assert code(batch_norm(training=True)) == "mutation"
    assert batch_norm(training=False) is None


def test_embedding_that_renormalizes_its_table_is_a_mutation() -> None:
    miss = miss_of(lambda b, x: b(F.embedding, b(torch.zeros, 3, dtype=torch.long), x, max_norm=1.0))
    assert code(miss) == "mutation"


# --- random -----------------------------------------------------------------------------------------------------------------------------


def attention(b: GraphBuilder, x: fx.Node, **options: float) -> fx.Node:
    heads = b.method("view", x, 1, 1, 4, 8)
    return b(F.scaled_dot_product_attention, heads, heads, heads, **options)


RANDOM: dict[str, Operations] = {
    "dropout": lambda b, x: b(F.dropout, x, 0.1, True),
    "dropout by keyword": lambda b, x: b(F.dropout, x, p=0.1, training=True),
    "dropout by default": lambda b, x: b(F.dropout, x, 0.1),
    "dropout of the operator library": lambda b, x: b(torch.dropout, x, 0.1, train=True),
    "dropout of channels": lambda b, x: b(F.dropout1d, b.method("view", x, 1, 4, 8), 0.1, True),
    "rrelu": lambda b, x: b(F.rrelu, x, 0.1, 0.3, True),
    "rand": lambda b, x: b(torch.add, x, b(torch.rand, 8)),
    "randn_like": lambda b, x: b(torch.add, x, b(torch.randn_like, x)),
    "method": lambda b, x: b.method("normal_", b(torch.empty_like, x)),
    "bernoulli": lambda b, x: b(torch.bernoulli, b(torch.sigmoid, x)),
    "operator of torch.ops": lambda b, x: b(torch.ops.aten.rand_like.default, x),
    "attention": lambda b, x: attention(b, x, dropout_p=0.1),
}


@pytest.mark.parametrize("operation", RANDOM)
def test_region_that_draws_random_numbers_is_a_miss(operation: str) -> None:
    assert code(miss_of(RANDOM[operation])) == "random"


NOT_RANDOM: dict[str, Operations] = {
    "dropout": lambda b, x: b(F.dropout, x, 0.1, False),
    "dropout of probability zero": lambda b, x: b(F.dropout, x, 0.0, True),
    "dropout by keyword": lambda b, x: b(F.dropout, b(torch.sin, x), p=0.1, training=False),
    "dropout of channels": lambda b, x: b(F.dropout1d, b.method("view", b(torch.sin, x), 1, 4, 8), 0.1, False),
    "rrelu": lambda b, x: b(F.rrelu, x, 0.1, 0.3, False),
    "attention": lambda b, x: attention(b, x, dropout_p=0.0),
    "attention by default": lambda b, x: attention(b, x, is_causal=True),
    "zeros": lambda b, x: b(torch.zeros_like, x),
}


@pytest.mark.parametrize("operation", NOT_RANDOM)
def test_region_that_could_but_does_not_draw_random_numbers_is_none(operation: str) -> None:
    miss = miss_of(lambda b, x: b(torch.exp, NOT_RANDOM[operation](b, x)))
    assert miss is None


def random_operators() -> set[str]:
    """Names of torch's public functions and methods that draw random numbers, as the operators behind them say."""
    names = set()
    for schema in torch._C._jit_get_all_schemas():
        library, _, name = schema.name.partition("::")
        if library != "aten" or name.startswith("_") or not (callable(getattr(torch, name, None)) or hasattr(torch.Tensor, name)):
            continue
        overload = getattr(getattr(torch.ops.aten, name), schema.overload_name or "default", None)
        if overload is not None and torch.Tag.nondeterministic_seeded in overload.tags:
            names.add(name)
    return names - {"scaled_dot_product_attention"}  # which has a test of its own


def test_every_random_operator_of_torch_is_recognised_by_its_name() -> None:
    unknown = []
    for name in random_operators():
        graph = fx.Graph()
        function = getattr(torch, name, None)
        args = (graph.placeholder("x"),)
        node = graph.call_function(function, args) if callable(function) else graph.call_method(name, args)
        if not draws_random_numbers(node):
            unknown.append(name)
    assert unknown == []
