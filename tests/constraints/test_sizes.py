"""The sizes for which a kernel was probed, and those with which it can be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from constraint_calls import CPU, Capture, kernel
from kernel_repositories import FOLDER

from fxkernels import LocalLayerRepository
from fxkernels.constraints.gate import ConstraintResult, check_probed_sizes
from fxkernels.constraints.sizes import fitting_sizes
from fxkernels.kernels.binding import Binding
from fxkernels.kernels.call import Slot
from fxkernels.kernels.stand_in import LayerState


def bound() -> Binding:
    """A call of a norm: the input is its first argument, the weight its layer's."""
    return Binding((Slot(0),), {}, lambda inputs: None, {"weight": Slot(1)}, LayerState(torch.nn.Module), False)


def within(x: torch.Tensor, ranges: tuple[tuple[int, int], ...], on_depends: Any = "guard") -> ConstraintResult:
    return check_probed_sizes(kernel(), bound(), (x, torch.empty(8)), ranges, on_depends=on_depends)


def test_call_without_dynamic_sizes_has_no_range() -> None:
    assert within(torch.empty(2, 8), ()) == ConstraintResult()


def test_probed_sizes_become_a_guard() -> None:
    capture = Capture()
    found = within(capture.tensor(2, 16, 8, dynamic=(1,)), ((2, 512),))
    assert found.miss is None
    assert found.note == "probed, and guarded: 2 <= dim(hidden_states, 1) <= 512"
    assert capture.guards == []
    assert found.guard is not None
    found.guard.enforce()
    assert any("512" in guard for guard in capture.guards)


def test_each_symbol_has_the_range_of_its_place() -> None:
    capture = Capture()
    found = within(capture.tensor(3, 16, 8, dynamic=(0, 1)), ((2, 100), (2, 512)))
    assert found.note == "probed, and guarded: 2 <= dim(hidden_states, 0) <= 100 and 2 <= dim(hidden_states, 1) <= 512"


def test_size_outside_of_what_was_probed_is_a_miss_for_which_other_sizes_are_decided_anew() -> None:
    capture = Capture()
    found = within(capture.tensor(2, 600, 8, dynamic=(1,)), ((2, 512),))
    assert found.miss is not None
    assert found.miss.code == "dynamic_shape"
    assert found.miss.message.startswith(
        "constrained:PairsRMSNorm was probed with 2 <= dim(hidden_states, 1) <= 512, and dim(hidden_states, 1) is 600"
    )
    assert found.guard is not None


def test_with_miss_a_size_that_may_leave_its_range_is_one() -> None:
    found = within(Capture().tensor(2, 16, 8, dynamic=(1,)), ((2, 512),), "miss")
    assert found.miss is not None
    assert (found.miss.code, found.guard) == ("dynamic_shape", None)


def test_symbol_that_occurs_in_products_only_is_guarded_too() -> None:
    capture = Capture()
    batch, length, _ = capture.tensor(3, 16, 8, dynamic=(0, 1)).shape
    with capture.mode:
        x = torch.empty(batch * length, 8)
    found = within(x, ((2, 100), (2, 512)))
    assert found.guard is not None
    found.guard.enforce()
    assert len([guard for guard in capture.guards if "100" in guard or "512" in guard]) == 2


# --- sizes with which a kernel can be probed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "nearest"), [(12, 12), (13, 16), (2, 4), (512, 512)])
def test_sizes_of_a_probe_are_the_nearest_that_the_kernel_is_made_for(size: int, nearest: int) -> None:
    capture = Capture()
    x = capture.tensor(2, 12, 8, dynamic=(1,))
    symbol = x.shape[1].node.expr  # type: ignore[attr-defined]
    repository = LocalLayerRepository(FOLDER / "constrained", layer_name="PairsRMSNorm", when="dim(hidden_states, 1) % 4 == 0")
    fitting = fitting_sizes(repository.load_for(CPU), bound(), (x, torch.empty(8)))
    assert fitting({symbol: size}) == {symbol: nearest}


def test_sizes_of_a_probe_are_those_that_the_kernel_is_made_for_also_once_the_capture_guards_them() -> None:
    capture = Capture()
    x = capture.tensor(2, 12, 8, dynamic=(1,))
    assert x.shape[1] % 4 == 0
    symbol = x.shape[1].node.expr  # type: ignore[attr-defined]
    repository = LocalLayerRepository(FOLDER / "constrained", layer_name="PairsRMSNorm", when="dim(hidden_states, 1) % 4 == 0")
    assert fitting_sizes(repository.load_for(CPU), bound(), (x, torch.empty(8)))({symbol: 13}) == {symbol: 16}


def test_what_a_kernel_does_not_demand_changes_no_size() -> None:
    capture = Capture()
    x = capture.tensor(2, 12, 8, dynamic=(1,))
    choice = {x.shape[1].node.expr: 13}  # type: ignore[attr-defined]
    assert fitting_sizes(kernel(), bound(), (x, torch.empty(8)))(choice) == choice


def test_size_that_a_kernel_cannot_have_at_all_is_none() -> None:
    capture = Capture()
    x = capture.tensor(2, 12, 8, dynamic=(1,))
    repository = LocalLayerRepository(FOLDER / "constrained", layer_name="PairsRMSNorm", when="dim(hidden_states, 1) == 12")
    fitting = fitting_sizes(repository.load_for(CPU), bound(), (x, torch.empty(8)))
    symbol = x.shape[1].node.expr  # type: ignore[attr-defined]
    assert fitting({symbol: 1000}) is None
