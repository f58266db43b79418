"""Annotating classes and functions, and reading the annotations of others."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from fxkernels.annotate import (
    annotated_forward,
    condition_of,
    layer_name_of,
    replace_kernel_forward_from_hub,
    use_kernel_forward_from_hub,
    use_kernelized_func,
)


@use_kernel_forward_from_hub("Doubled")
class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class SameForward(Doubled):
    pass


class OwnForward(Doubled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 3


@use_kernel_forward_from_hub("rotate")
def rotate(x: torch.Tensor) -> torch.Tensor:
    return torch.cat((-x[..., 1:], x[..., :1]), -1)


def plain(x: torch.Tensor) -> torch.Tensor:
    return x


def test_annotated_class_is_the_same_class_with_a_layer_name() -> None:
    class Norm(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    forward = Norm.forward
    assert use_kernel_forward_from_hub("Norm")(Norm) is Norm
    assert layer_name_of(Norm) == layer_name_of(Norm()) == "Norm"
    assert annotated_forward(Norm) is annotated_forward(Norm()) is forward


def test_annotated_function_stays_the_same_function() -> None:
    def turn(x: int) -> int:
        return -x

    assert use_kernel_forward_from_hub("turn")(turn) is turn
    assert inspect.isfunction(turn)
    assert turn(1) == -1
    assert layer_name_of(turn) == "turn"
    assert annotated_forward(turn) is turn


def test_annotated_function_can_be_pickled_and_deep_copied() -> None:
    assert pickle.loads(pickle.dumps(rotate)) is rotate
    assert copy.deepcopy(rotate) is rotate


def test_model_with_an_annotated_layer_can_be_pickled() -> None:
    assert torch.equal(pickle.loads(pickle.dumps(Doubled()))(torch.ones(2)), torch.full((2,), 2.0))


def test_nothing_but_the_annotated_has_a_layer_name() -> None:
    for obj in (plain, nn.Linear, nn.Linear(1, 1), None, 3):
        assert layer_name_of(obj) is None
        assert annotated_forward(obj) is None


def test_subclass_that_keeps_forward_is_the_annotated_layer() -> None:
    assert annotated_forward(SameForward) is Doubled.forward


def test_subclass_that_overrides_forward_is_not_the_annotated_layer() -> None:
    assert annotated_forward(OwnForward) is None
    assert layer_name_of(OwnForward) == "Doubled"


def test_subclass_that_gets_another_forward_from_a_mixin_is_not_the_annotated_layer() -> None:
    class Mixin:
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    class Mixed(Mixin, Doubled):
        pass

    assert annotated_forward(Mixed) is None


def test_annotating_the_overriding_subclass_makes_it_a_layer_of_its_own() -> None:
    class Tripled(Doubled):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 3

    use_kernel_forward_from_hub("Tripled")(Tripled)
    assert layer_name_of(Tripled) == "Tripled"
    assert annotated_forward(Tripled) is Tripled.forward
    assert layer_name_of(Doubled) == "Doubled"


def test_module_with_a_forward_of_its_own_is_not_the_annotated_layer() -> None:
    module = Doubled()
    module.forward = plain  # type: ignore[method-assign,assignment]
    assert annotated_forward(module) is None


def test_wrapper_around_an_annotated_function_is_not_the_annotated_function() -> None:
    @functools.wraps(rotate)
    def scaled(x: torch.Tensor) -> torch.Tensor:
        return rotate(x) * 2

    assert layer_name_of(scaled) is None
    assert annotated_forward(scaled) is None


def test_wrapper_can_be_annotated_under_another_name_but_not_under_the_same() -> None:
    @functools.wraps(rotate)
    def scaled(x: torch.Tensor) -> torch.Tensor:
        return rotate(x) * 2

    with pytest.raises(ValueError, match="already marked as 'rotate'"):
        use_kernel_forward_from_hub("rotate")(scaled)
    use_kernel_forward_from_hub("scaled")(scaled)
    assert annotated_forward(scaled) is scaled
    assert layer_name_of(rotate) == "rotate"


def test_other_peoples_classes_can_be_annotated() -> None:
    class Theirs(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    replace_kernel_forward_from_hub(Theirs, "Theirs")
    assert layer_name_of(Theirs) == "Theirs"


def test_condition_is_called_with_the_layer_and_not_bound_to_it() -> None:
    class Norm(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    use_kernel_forward_from_hub("Norm", condition=lambda layer: isinstance(layer, Norm))(Norm)
    condition = condition_of(Norm())
    assert condition is not None
    assert condition(Norm())
    assert Norm().kernel_condition(Norm())  # type: ignore[operator]


def test_annotating_a_subclass_anew_drops_the_parents_condition() -> None:
    class Parent(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    class Child(Parent):
        pass

    use_kernel_forward_from_hub("Norm", condition=lambda layer: False)(Parent)
    use_kernel_forward_from_hub("Norm")(Child)
    assert condition_of(Child) is None


def test_functions_have_conditions_too() -> None:
    def turn(x: int) -> int:
        return -x

    def never(function: object) -> bool:
        return False

    assert condition_of(use_kernel_forward_from_hub("turn", never)(turn)) is never


@pytest.mark.parametrize("target", [3, Doubled(), functools.partial(plain), len])
def test_only_classes_and_functions_can_be_annotated(target: Any) -> None:
    with pytest.raises(TypeError, match="marks classes and functions"):
        use_kernel_forward_from_hub("X")(target)


def test_class_without_a_forward_cannot_be_annotated() -> None:
    with pytest.raises(TypeError, match="has no `forward`"):
        use_kernel_forward_from_hub("X")(type("Empty", (), {}))


def test_replacing_wants_a_class() -> None:
    with pytest.raises(TypeError, match="marks a class"):
        replace_kernel_forward_from_hub(plain, "X")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "  "])
def test_layer_name_cannot_be_empty(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be empty"):
        use_kernel_forward_from_hub(name)


def test_decorator_without_parentheses_is_an_error_that_says_so() -> None:
    with pytest.raises(TypeError, match="with parentheses"):
        use_kernel_forward_from_hub(plain)  # type: ignore[arg-type]


def test_condition_must_be_callable() -> None:
    with pytest.raises(TypeError, match="must be callable"):
        use_kernel_forward_from_hub("X", condition=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("functions", [(rotate,), ([rotate],)])
def test_functions_are_recorded_on_the_class_and_construction_stays_as_it_is(functions: Any) -> None:
    class Attention(nn.Module):
        pass

    assert use_kernelized_func(*functions)(Attention) is Attention
    assert Attention.kernel_functions == (rotate,)  # type: ignore[attr-defined]
    assert "__init__" not in vars(Attention)
    assert vars(Attention()).keys() == vars(nn.Module()).keys()


def test_subclass_records_its_functions_beside_its_parents() -> None:
    @use_kernel_forward_from_hub("turn")
    def turn(x: int) -> int:
        return -x

    parent = use_kernelized_func(rotate)(type("Parent", (nn.Module,), {}))
    child = use_kernelized_func(turn, rotate)(type("Child", (parent,), {}))
    assert child.kernel_functions == (rotate, turn)  # type: ignore[attr-defined]
    assert parent.kernel_functions == (rotate,)  # type: ignore[attr-defined]


def test_function_that_is_not_annotated_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="plain is not annotated"):
        use_kernelized_func(rotate, plain)


def test_only_classes_record_functions() -> None:
    with pytest.raises(TypeError, match="decorates a class"):
        use_kernelized_func(rotate)(rotate)  # type: ignore[arg-type]


def test_class_annotated_by_the_kernels_package_needs_nothing() -> None:
    kernels = pytest.importorskip("kernels.layer")

    class Norm(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    kernels.use_kernel_forward_from_hub("Norm")(Norm)
    assert layer_name_of(Norm()) == "Norm"
    assert annotated_forward(Norm()) is Norm.forward


def test_function_annotated_by_the_kernels_package_needs_nothing() -> None:
    kernels = pytest.importorskip("kernels.layer")
    theirs = kernels.use_kernel_forward_from_hub("turn")(plain)
    assert layer_name_of(theirs) == "turn"
    assert annotated_forward(theirs) is type(theirs).forward
    use_kernelized_func([theirs])(type("Attention", (nn.Module,), {}))


def test_class_annotated_here_is_annotated_for_the_kernels_package() -> None:
    kernels = pytest.importorskip("kernels.layer")
    module = Doubled()
    with pytest.raises(ValueError, match="No layer mapping for `Doubled`"):
        kernels.kernelize(module, mode=kernels.Mode.INFERENCE, device="cpu", use_fallback=False)
