"""Whole models whose compositions all run built-in kernels compute what they compute by themselves, forward and backward."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import fusions
import pytest
import torch
from torch import nn

import fxkernels
from fxkernels.builtin import builtin_repository
from fxkernels.fusions import SHIPPED

FAST = ("Llama", "BERT")
"""The others take as long, and show the same of other models."""

FOUND = {
    "Llama": "AddRMSNorm SwiGLU attention linear_cross_entropy",
    "Qwen3": "AddRMSNorm SwiGLU attention linear_cross_entropy qk_norm_rotary",
    "Gemma 2": "GeGLU add_rms_norm attention",
    "Gemma 3": "GeGLU add_rms_norm attention linear_cross_entropy qk_norm_rotary",
    "Phi": "add_layer_norm attention linear_cross_entropy",
    "Mixtral": "AddRMSNorm attention linear_cross_entropy",
    "Qwen3-MoE": "AddRMSNorm attention linear_cross_entropy qk_norm_rotary",
    "GPT-OSS": "AddRMSNorm attention linear_cross_entropy",
    "BERT": "add_layer_norm attention",
    "T5": "add_rms_norm attention",
    "T5 1.1": "GeGLU add_rms_norm attention",
    "Whisper": "add_layer_norm attention",
    "SigLIP": "add_layer_norm attention",
}
"""The fusions that run a kernel in a step with gradients. `experts` has no kernel with a backward."""

EXPERTS = ("Mixtral", "Qwen3-MoE", "GPT-OSS")
"""Their grouped products have no float64, and on CPUs a backward that AOTAutograd cannot trace."""


@pytest.fixture(autouse=True)
def reset() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def loss_of(output: Any) -> torch.Tensor:
    """A scalar on which every output of a model has an influence of its own."""
    if isinstance(output, torch.Tensor):
        return output
    values = next(output[name] for name in ("logits", "last_hidden_state") if name in output)
    return (values * torch.linspace(-1, 1, values.numel(), dtype=values.dtype).view_as(values)).sum()


def step(run: Any, model: nn.Module, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The loss and all gradients."""
    model.zero_grad()
    loss = loss_of(run(**inputs))
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in FOUND])
def test_a_model_equals_itself_with_equal_gradients(name: str, attention: str) -> None:
    if name in ("Gemma 2", "GPT-OSS") and attention == "sdpa":
        pytest.skip("transformers has no SDPA for its soft cap or sinks")
    model, inputs = fusions.transformers_model(name, attention)
    model.eval()  # without dropout
    if "linear_cross_entropy" in FOUND[name]:
        model = fusions.Loss(model)
    elif "decoder_input_ids" in inputs:
        inputs["use_cache"] = False
    mapping = {fusion.layer_name: {"cpu": builtin_repository(fusion.layer_name)} for fusion in SHIPPED}
    backend = fxkernels.hubkernels(inner="eager" if name in EXPERTS else "aot_eager", mapping=mapping)
    found = step(torch.compile(model, backend=backend), model, inputs)
    own = step(model, model, inputs)
    exact = own if name in EXPERTS else in_float64(model, inputs)
    assert {call.layer_name for call in backend.report.rewritten} >= set(FOUND[name].split()), str(backend.report)
    assert exact.keys() <= found.keys()
    largest = max(float(value.abs().max()) for value in exact.values())  # a gradient that should be zero is the rounding of others
    for key, value in found.items():
        if key not in exact:  # a parameter that the loss does not need gets zeros where a whole graph is differentiated
            assert not value.any(), key
            continue
        allowed = 3 * float((own[key] - exact[key]).abs().max()) + 2e-5 * float(exact[key].abs().max()) + 1e-6 * largest
        assert float((value - exact[key]).abs().max()) <= allowed, key


def in_float64(model: nn.Module, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A step of the model in float64."""
    exact = copy.deepcopy(model).double()
    doubles = {name: value.double() if getattr(value, "is_floating_point", bool)() else value for name, value in inputs.items()}
    return step(exact, exact, doubles)
