"""Hooks that are registered, or removed, after the first call of a kernelized model: they run as on any other model."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_repositories import executions, repository, reset_executions
from layers import Block, Stack
from torch import nn

import fxkernels
from fxkernels import kernelize

NORMS = {"RMSNorm": {"cpu": repository("norms", "RMSNorm")}}
REGISTER = ("forward", "forward_pre", "full_backward", "full_backward_pre")


@pytest.fixture(autouse=True)
def fresh_counters() -> None:
    reset_executions("norms")


@pytest.fixture(params=["symbolic", "dynamo"])
def block(request: pytest.FixtureRequest) -> Any:
    return kernelize(Block(), mapping=NORMS, capture=request.param, verify="off")


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 8)


def runs() -> int:
    return executions("norms")["RMSNorm"]


def registered(module: nn.Module | None, kind: str, seen: list[str], name: str = "hook") -> Any:
    """Register a hook on the module, or on every module."""
    if module is None:
        register = getattr(nn.modules.module, f"register_module_{kind}_hook")
    else:
        register = getattr(module, f"register_{kind}_hook")
    return register(lambda *_: seen.append(name))


@pytest.mark.parametrize("kind", REGISTER)
@pytest.mark.parametrize("path", ["", "norm", "linear"])
def test_a_hook_registered_after_the_first_call_runs_until_it_is_removed(block: Any, x: torch.Tensor, kind: str, path: str) -> None:
    seen: list[str] = []
    block(x)
    handle = registered(block.get_submodule(path), kind, seen)
    for _ in range(2):
        block(x.requires_grad_()).sum().backward()
    assert seen == ["hook"] * 2
    handle.remove()
    block(x).sum().backward()
    assert seen == ["hook"] * 2
    assert runs() == 4
    assert [call.status for call in block.report.calls] == ["rewritten"]


@pytest.mark.parametrize("kind", REGISTER)
def test_a_hook_that_takes_the_place_of_another_one_runs_instead(block: Any, x: torch.Tensor, kind: str) -> None:
    seen: list[str] = []
    first = registered(block.norm, kind, seen, "first")
    block(x.requires_grad_()).sum().backward()
    first.remove()
    registered(block.norm, kind, seen, "second")
    block(x).sum().backward()
    assert seen == ["first", "second"]


@pytest.mark.parametrize("kind", REGISTER)
def test_a_hook_registered_for_every_module_after_the_first_call_runs_until_it_is_removed(block: Any, x: torch.Tensor, kind: str) -> None:
    seen: list[str] = []
    block(x)
    handle = registered(None, kind, seen)
    try:
        block(x.requires_grad_()).sum().backward()
    finally:
        handle.remove()
    block(x).sum().backward()
    assert len(seen) == len(list(block.modules()))


def test_a_late_hook_may_change_what_a_layer_gets_and_gives(block: Any, x: torch.Tensor) -> None:
    block(x)
    block.linear.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    block.linear.register_forward_hook(lambda module, args, output: output * 3)
    plain = fxkernels.original(block)
    torch.testing.assert_close(block(x), x + 3 * plain.linear(plain.norm(x) + 1))
    assert runs() == 2


def test_hooks_are_dropped_with_their_dictionary_and_run_in_a_new_one(block: Any, x: torch.Tensor) -> None:
    seen: list[str] = []
    registered(block.linear, "forward", seen)
    block(x)
    block.linear._forward_hooks = type(block.linear._forward_hooks)()
    block(x)
    assert seen == ["hook"]
    registered(block.linear, "forward", seen, "new")
    block(x)
    assert seen == ["hook", "new"]


def test_a_late_hook_on_a_layer_that_was_exchanged_runs(block: Any, x: torch.Tensor) -> None:
    seen: list[str] = []
    block(x)
    block.linear = nn.Linear(8, 8)
    block(x)
    registered(block.linear, "forward", seen)
    block(x)
    assert seen == ["hook"]


def test_a_late_hook_behind_a_graph_break_runs(x: torch.Tensor) -> None:
    def around(layer: nn.Module, x: torch.Tensor) -> Any:
        torch._dynamo.graph_break()
        return layer(x)

    model = kernelize(Stack(around=around), mapping=NORMS, verify="off")
    seen: list[str] = []
    model(x)
    for block in model.blocks:
        registered(block.linear, "forward", seen)
        model(x)
    assert len(seen) == 3
    assert runs() == 9


def test_a_late_hook_runs_when_a_child_or_a_method_is_called_on_its_own(x: torch.Tensor) -> None:
    model = kernelize(Stack(), mapping=NORMS, verify="off")
    seen: list[str] = []
    model.blocks[0](x), model.encode(x)
    registered(model.blocks[0].norm, "forward", seen)
    model.blocks[0](x), model.encode(x)
    assert seen == ["hook", "hook"]
    assert runs() == 4


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"])
def test_a_duplicate_has_the_late_hooks_and_gets_its_own(block: Any, x: torch.Tensor, duplicate: Callable[[Any], Any]) -> None:
    block(x)
    handle = block.norm.register_forward_hook(_tripled)
    duplicated = duplicate(block)
    torch.testing.assert_close(duplicated(x), block(x))
    handle.remove()
    expected = fxkernels.original(block)(x)
    torch.testing.assert_close(block(x), expected)
    duplicated.norm._forward_hooks.clear()
    torch.testing.assert_close(duplicated(x), expected)
    duplicated.norm.register_forward_hook(_tripled)
    torch.testing.assert_close(block(x), expected)
    assert not torch.allclose(duplicated(x), expected)
    assert runs() == 7


def _tripled(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    return output * 3
