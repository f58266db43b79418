"""The built-in kernel layers equal the layers of transformers that they are meant for."""

from __future__ import annotations

import importlib

import pytest
import torch
from tolerances import tolerance

pytest.importorskip("transformers")


def function_of(model, name):
    return getattr(importlib.import_module(f"transformers.models.{model}.modeling_{model}"), name)


def test_rms_norm_is_bit_equal_to_llamas(kernel_class):
    norm = function_of("llama", "LlamaRMSNorm")(16)
    kernel = kernel_class("RMSNorm")()
    kernel.weight, kernel.variance_epsilon = norm.weight, norm.variance_epsilon
    x = torch.randn(2, 3, 16)
    assert torch.equal(kernel(x), norm(x))


@pytest.mark.parametrize(("model", "size"), [("llama", 8), ("gpt_oss", 4)])
def test_rotary_embedding_agrees_with_the_models(kernel_class, model, size):
    q, k = torch.randn(1, 5, 4, 8).transpose(1, 2), torch.randn(1, 5, 2, 8).transpose(1, 2)
    cos, sin = torch.randn(1, 5, size), torch.randn(1, 5, size)
    expected = function_of(model, "apply_rotary_pos_emb")(q, k, cos, sin)
    for output, wanted in zip(kernel_class("rotary_pos_emb")()(q, k, cos, sin), expected, strict=True):
        torch.testing.assert_close(output, wanted, **tolerance(torch.float32))
