"""Comparing signatures, and turning a call of one into a call of the other."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn

from fxkernels.kernels.signature import forward_signature, kernel_arguments, signature_difference


def sig(text: str) -> inspect.Signature:
    return inspect.signature(eval(f"lambda {text}: None"))


def difference(kernel: str, reference: str, positional: int = 0, keywords: tuple[str, ...] = ()) -> str | None:
    return signature_difference(sig(kernel), sig(reference), positional, keywords)


@pytest.mark.parametrize(
    ("kernel", "reference"),
    [
        ("x", "hidden_states"),
        ("q, k, cos, sin, dim=1", "q, k, cos, sin, unsqueeze_dim=1"),
        ("x, *, eps=1e-6", "hidden_states, *, eps=1e-6"),
        ("x, *, a=1, b=2", "x, *, b=2, a=1"),
        ("x, *rest, **more", "x, *args, **kwargs"),
        ("x, /", "y, /"),
        ("x, mask=None", "x, attention_mask=None"),
    ],
)
def test_signatures_that_mean_the_same_agree(kernel, reference):
    assert difference(kernel, reference, 1) is None


@pytest.mark.parametrize(
    ("kernel", "reference", "words"),
    [
        ("x, y", "x", "number of parameters (2 and 1)"),
        ("x", "x, y", "number of parameters (1 and 2)"),
        ("x, y=1", "x", "number of parameters"),
        ("q, k, sin, cos", "q, k, cos, sin", "sin stands where the layer has cos"),
        ("x, *, eps=1", "x, eps=1", "parameter 2 is keyword-only (eps)"),
        ("x, *args", "x, y", "parameter 2 is variadic positional (args)"),
        ("x, /", "x", "parameter 1 is positional-only (x)"),
        ("x, *, eps=1", "x, *, epsilon=1", "keyword-only parameter eps has no counterpart"),
        ("y, *, x=1", "x, *, y=1", "y stands where the layer has x"),
        ("x, dim=2", "x, dim=1", "leaves out dim, whose default differs"),
        ("x, dim", "x, dim=1", "leaves out dim, whose default differs"),
        ("x, flag=1", "x, flag=True", "leaves out flag, whose default differs"),
        ("x, scale=1", "x, scale=1.0", "leaves out scale, whose default differs"),
        ("x, *, eps=1e-6", "x, *, eps=1e-5", "leaves out eps, whose default differs"),
    ],
)
def test_difference_that_matters_is_told(kernel, reference, words):
    assert words in difference(kernel, reference, 1)


def test_default_of_a_passed_argument_does_not_matter():
    assert difference("x, dim=2", "x, dim=1", 2) is None
    assert difference("x, axis=2", "x, dim=1", 1, ("dim",)) is None
    assert difference("x, *, eps=2", "x, *, eps=1", 1, ("eps",)) is None


def test_further_keyword_that_the_kernel_would_take_for_a_parameter_is_a_difference():
    assert "mask among further keywords" in difference("mask, **more", "x, **kwargs", 1, ("mask",))


def test_tensor_defaults_agree_only_if_they_are_one_object():
    shared, other = torch.ones(2), torch.ones(2)
    one, two = inspect.signature(lambda x=shared: x), inspect.signature(lambda x=other: x)
    assert signature_difference(one, one, 0, ()) is None
    assert "default differs" in signature_difference(one, two, 0, ())


def test_forward_signature_has_no_self():
    assert [*forward_signature(nn.Linear).parameters] == ["input"]


def test_forward_that_takes_anything_keeps_its_variadic_parameters():
    class Anything(nn.Module):
        def forward(*args, **kwargs): ...

    assert str(forward_signature(Anything)) == "(*args, **kwargs)"


@pytest.mark.parametrize(
    ("kernel", "reference", "args", "kwargs", "expected"),
    [
        ("x", "hidden_states", (), {"hidden_states": 1}, ((1,), {})),
        ("x, dim=1", "input, axis=1", (1,), {"axis": 2}, ((1, 2), {})),
        ("x, dim=1", "input, axis=1", (1,), {}, ((1,), {})),
        ("a, b=5, c=6", "a, b=5, c=6", (1,), {"c": 3}, ((1, 5, 3), {})),
        ("x, *, eps", "y, *, eps", (1,), {"eps": 2}, ((1,), {"eps": 2})),
        ("x, *r, eps=1, **m", "y, *a, eps=1, **k", (1, 2, 3), {"z": 4}, ((1, 2, 3), {"z": 4})),
        ("x, /, y", "a, /, b", (1,), {"b": 2}, ((1, 2), {})),
    ],
)
def test_call_of_the_reference_becomes_the_call_of_the_kernel(kernel, reference, args, kwargs, expected):
    assert kernel_arguments(sig(kernel), sig(reference), args, kwargs) == expected


def test_call_that_the_reference_would_refuse_is_refused():
    with pytest.raises(TypeError, match="missing a required argument"):
        kernel_arguments(sig("x, y"), sig("a, b"), (1,), {})


def test_graph_nodes_pass_through_as_they_are():
    graph = fx.Graph()
    q, k = graph.placeholder("q"), graph.placeholder("k")
    args, kwargs = kernel_arguments(sig("a, b, *, c=None"), sig("q, k, *, c=None"), (q,), {"k": k, "c": [q]})
    assert args == (q, k)
    assert kwargs == {"c": [q]}


@given(st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_kernel_sees_the_values_that_the_reference_would_see(positional, by_keyword, swapped):
    def reference(a=0, b=1, c=2, *, d=3):
        return a, b, c, d

    def kernel(x=0, y=1, z=2, *, d=3):
        return x, y, z, d

    names = ["a", "b", "c", "d"]
    given_by_name = [*reversed(names)] if swapped else names
    kwargs = {name: f"keyword {name}" for name in given_by_name[:by_keyword] if name not in names[:positional]}
    args = tuple(f"position {index}" for index in range(positional))
    new_args, new_kwargs = kernel_arguments(inspect.signature(kernel), inspect.signature(reference), args, kwargs)
    assert kernel(*new_args, **new_kwargs) == reference(*args, **kwargs)
