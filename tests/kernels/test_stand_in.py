"""The `self` of a kernel layer inside a graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from layers import Norm
from torch import nn

from fxkernels.kernels.stand_in import LayerState, is_constant, stand_in


class Gated(nn.Module):
    """Two submodules, a buffer, constants of several kinds, and something that is no constant."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.norm = nn.Linear(8, 8, bias=False), Norm()
        self.register_buffer("scale", torch.full((8,), 2.0))
        self.limit, self.sizes, self.config = 7.0, (8, 8), {"act": "silu"}

    @property
    def doubled(self) -> float:
        return self.limit * 2

    def gated(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.gate(x)) * self.scale


def state(module: nn.Module, dynamic: tuple[str, ...] = ()) -> LayerState:
    return LayerState.of(module, lambda name: name not in dynamic)


def of(module: nn.Module, training: bool = False) -> Any:
    """The stand-in of a module, with its own tensors."""
    known = state(module)
    values = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return stand_in(known, training)([values[name] for name in known.tensor_names()])


def test_tensors_are_listed_by_dotted_name_own_ones_first() -> None:
    assert list(state(Gated()).tensor_names()) == ["scale", "gate.weight", "norm.weight"]


def test_stand_in_has_the_tensors_and_constants_of_the_layer() -> None:
    layer = Gated()
    found = of(layer)
    assert found.scale is layer.scale
    assert found.gate.weight is layer.gate.weight
    assert (found.limit, found.sizes, found.norm.variance_epsilon) == (7.0, (8, 8), 1e-6)


def test_stand_in_has_nothing_that_is_neither_tensor_nor_constant() -> None:
    with pytest.raises(AttributeError, match="config"):
        _ = of(Gated()).config


def test_stand_in_is_an_object_of_the_layers_class() -> None:
    found = of(Gated())
    assert isinstance(found, Gated)
    assert found.doubled == 14.0


def test_submodules_of_a_stand_in_can_be_called() -> None:
    layer, x = Gated(), torch.randn(4, 8)
    torch.testing.assert_close(of(layer).gated(x), layer.gated(x))


def test_parameter_that_is_none_is_none() -> None:
    assert of(nn.Linear(8, 8, bias=False)).bias is None


@pytest.mark.parametrize("training", [True, False])
def test_training_flag_is_that_of_the_call(training: bool) -> None:
    found = of(Gated(), training)
    assert (found.training, found.gate.training) == (training, training)


def test_number_that_is_an_input_of_the_graph_is_listed_among_the_tensors() -> None:
    known = state(Norm(), dynamic=("variance_epsilon",))
    assert (list(known.tensor_names()), known.constants) == (["weight", "variance_epsilon"], {})
    assert stand_in(known, False)([torch.ones(8), 1e-5]).variance_epsilon == 1e-5


def test_number_of_a_submodule_is_asked_for_by_its_dotted_name() -> None:
    assert list(state(Gated(), dynamic=("norm.variance_epsilon",)).tensor_names())[-1] == "norm.variance_epsilon"


def test_every_call_gets_a_stand_in_of_its_own() -> None:
    build = stand_in(state(Norm()), False)
    first, second = build([torch.ones(8)]), build([torch.zeros(8)])
    first.left_behind = 1
    assert not hasattr(second, "left_behind")
    assert second.weight.sum() == 0


def test_layer_is_not_kept_alive_by_its_state() -> None:
    known = state(Gated())
    assert not any(isinstance(value, torch.Tensor | nn.Module) for value in (*known.constants.values(), *known.tensors))


def test_first_level_names_are_what_a_kernel_may_read() -> None:
    assert state(Gated()).available == {"scale", "limit", "sizes", "gate", "norm"}


def test_identical_layers_have_equal_keys() -> None:
    assert state(Gated()).key == state(Gated()).key


def test_layers_with_other_constants_have_other_keys() -> None:
    assert state(Norm(eps=1e-6)).key != state(Norm(eps=1e-5)).key


def test_constants_of_another_type_make_another_key() -> None:
    one, two = Norm(), Norm()
    one.variance_epsilon, two.variance_epsilon = 1, True
    assert state(one).key != state(two).key


def test_constants_of_submodules_are_in_the_key() -> None:
    one, two = Gated(), Gated()
    two.norm.variance_epsilon = 1.0
    assert state(one).key != state(two).key


@pytest.mark.parametrize("value", [True, 1, 1.0, 1j, "silu", None, torch.float16, torch.device("cpu"), torch.Size((2,)), (1, ("a", None))])
def test_numbers_words_and_tuples_of_them_are_constants(value: object) -> None:
    assert is_constant(value)


@pytest.mark.parametrize("value", [[1], {}, torch.ones(1), (1, [2]), object(), len])
def test_what_can_change_is_no_constant(value: object) -> None:
    assert not is_constant(value)
