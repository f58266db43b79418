"""Memory in which it shows who reads and writes where."""

from __future__ import annotations

import ctypes

import pytest
import torch

from fxkernels.admission.guarded_memory import Fenced, shared_memory, uncleared_memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_fenced_tensor_looks_like_any_other(dtype: torch.dtype) -> None:
    values = torch.randn(10).to(dtype)
    fenced = Fenced.copy_of(values)
    assert torch.equal(fenced.values, values)
    assert fenced.values.storage_offset() == 0
    assert fenced.values.untyped_storage().nbytes() == 10 * dtype.itemsize
    assert fenced.values.data_ptr() % 64 == 0
    assert not fenced.is_broken()


@pytest.mark.parametrize("place", [-1, 10])
def test_a_write_beyond_a_fenced_tensor_shows(place: int) -> None:
    fenced = Fenced.copy_of(torch.randn(10))
    ctypes.c_float.from_address(fenced.values.data_ptr() + 4 * place).value = 1.0
    assert fenced.is_broken()


def test_a_write_between_the_rows_of_a_view_shows() -> None:
    fenced = Fenced.copy_of(torch.randn(12))
    view = ((3, 2), (4, 1), 0)
    fenced.values.as_strided(*view).zero_()
    assert not fenced.is_changed_besides([view])
    fenced.values[3] = 7
    assert fenced.is_changed_besides([view])


def test_integers_have_no_fence() -> None:
    assert Fenced.copy_of(torch.arange(3)).around is None


def test_new_memory_is_not_zero_meanwhile() -> None:
    with uncleared_memory(torch.device("cpu")):
        filled = torch.empty(1 << 16)
    if not bool(filled.any()):
        pytest.skip("this C library does not fill memory")
    assert float(filled.abs().min()) > 1e30


def test_views_of_one_storage_share_memory_only_where_they_meet() -> None:
    x = torch.zeros(4, 6)
    assert shared_memory(x, x[1:])
    assert not shared_memory(x[:2], x[2:])
    assert not shared_memory(x[:, :3], x[:, 3:])
