"""Real transformers models through both ways in: the calls found, the numbers, generation, training."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
import torch
from kernel_repositories import executions, repository, reset_executions
from torch import nn

import fxkernels
from fxkernels import hubkernels, kernelize

transformers = pytest.importorskip("transformers")
from corpus import MODELS, build, checkpoint, layer_calls, tensors  # noqa: E402

MAPPING = {
    "RMSNorm": {"cpu": repository("norms", "RMSNorm")},
    "SiLU": {"cpu": repository("activations", "SiLU")},
    "GeLU": {"cpu": repository("activations", "GeLU")},
    "QuickGELU": {"cpu": repository("activations", "QuickGELU")},
    "rotary_pos_emb": {"cpu": repository("rotary", "rotary_pos_emb")},
}
KERNELIZED_ON = ["llama", "qwen3", "roberta"]
LARGE = ("deformable_detr", "qwen3_next", "detr", "clip", "mamba2", "seed_oss", "gpt_oss")
"""Models that take seconds to capture: only in the slow run. The others show every kind of call."""

ALL = [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in MODELS]


@pytest.fixture(autouse=True)
def fresh_counters() -> None:
    reset_executions("norms", "activations", "rotary")


def found(report) -> dict[str, int]:
    return dict(Counter(call.layer_name for call in report.calls if call.status != "not_captured"))


@pytest.mark.parametrize("name", ALL)
def test_the_calls_found_are_those_that_the_model_makes_and_without_kernels_results_are_bit_equal(name, caplog):
    model, inputs = build(name)
    with torch.no_grad():
        expected = tensors(torch.compile(model, backend="eager")(**inputs))
        torch._dynamo.reset()
        backend = hubkernels(inner="eager", mapping={})
        with caplog.at_level(logging.WARNING, "fxkernels"):
            output = tensors(torch.compile(model, backend=backend)(**inputs))
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    assert found(backend.report) == layer_calls(name)
    assert "rewritten" in caplog.text  # nothing is mapped, which is a warning


@pytest.mark.parametrize("name", KERNELIZED_ON)
@pytest.mark.parametrize("way", ["kernelize", "backend"])
def test_with_kernels_the_results_agree_and_every_mapped_call_runs_one(name, way):
    model, inputs = build(name)
    twin, _ = build(name)
    with torch.no_grad():
        before, twin_before = tensors(model(**inputs)), tensors(twin(**inputs))
        if way == "kernelize":
            run = kernelize(model, mapping=MAPPING)
            output, report = tensors(run(**inputs)), run.report
        else:
            backend = hubkernels(inner="eager", mapping=MAPPING)
            output, report = tensors(torch.compile(model, backend=backend, fullgraph=True)(**inputs)), backend.report
        torch.testing.assert_close(output, before)
        torch.testing.assert_close(tensors(twin(**inputs)), twin_before, rtol=0, atol=0)
        torch.testing.assert_close(tensors(model(**inputs)), before, rtol=0, atol=0)
    assert {call.status for call in report.calls} == {"rewritten"}
    assert sum(sum(executions(repo).values()) for repo in ("norms", "activations", "rotary")) == sum(layer_calls(name).values())


@pytest.mark.slow
def test_a_model_without_annotated_calls_is_left_alone_with_a_warning(caplog):
    model, inputs = build("detr")
    with torch.no_grad(), caplog.at_level(logging.WARNING, "fxkernels"):
        expected = tensors(torch.compile(model, backend="eager")(**inputs))
        torch._dynamo.reset()
        torch.testing.assert_close(tensors(kernelize(model, mapping=MAPPING)(**inputs)), expected, rtol=0, atol=0)
    assert "no annotated layer was called" in caplog.text


@pytest.mark.parametrize("name", ["llama"])
def test_greedy_generation_gives_the_same_twenty_tokens(name):
    model, inputs = build(name)
    expected = model.generate(inputs["input_ids"], max_new_tokens=20, do_sample=False)
    run = kernelize(model, mapping=MAPPING)
    assert torch.equal(run.generate(inputs["input_ids"], max_new_tokens=20, do_sample=False), expected)
    assert executions("norms")["RMSNorm"] >= 19 * layer_calls(name)["RMSNorm"]


@pytest.mark.parametrize(
    ("inner", "dynamic", "checkpointing"),
    [
        ("eager", None, False),
        pytest.param("eager", True, True, marks=pytest.mark.slow),
        pytest.param("aot_eager", True, False, marks=pytest.mark.slow),
        ("aot_eager", None, True),
    ],
    ids=["eager", "eager-dynamic-checkpointed", "aot-dynamic", "aot-checkpointed"],
)
def test_training_a_llama_gives_the_same_loss_and_gradients(inner, dynamic, checkpointing):
    model, inputs = build("llama")
    model.train()
    if checkpointing:
        model.config.use_cache = False  # transformers would turn it off with a log line that breaks the graph
        checkpoint(model)
    loss, expected = loss_and_gradients(model, model, inputs)
    backend = hubkernels(inner=inner, mapping=MAPPING)
    run = torch.compile(model, backend=backend, fullgraph=True, dynamic=dynamic)
    compiled_loss, found_gradients = loss_and_gradients(run, model, inputs)
    torch.testing.assert_close(compiled_loss, loss)
    torch.testing.assert_close(found_gradients, expected)
    assert {call.status for call in backend.report.calls} == {"rewritten"}


def test_a_kernelized_llama_trains_and_switches_kernels_without_backward_off():
    mapping = {"RMSNorm": {"cpu": repository("norms", "InferenceRMSNorm")}}
    model, inputs = build("llama")
    run = kernelize(model, mapping=mapping)
    with torch.no_grad():
        run(**inputs)
    assert executions("norms")["InferenceRMSNorm"] == 5
    run.train()
    _, found_gradients = loss_and_gradients(run, run, inputs)
    assert executions("norms")["InferenceRMSNorm"] == 5
    _, expected = loss_and_gradients(model.train(), model, inputs)
    torch.testing.assert_close(found_gradients, expected)


def test_in_eval_mode_the_gradients_through_inference_kernels_are_the_originals():
    kernels = {"RMSNorm": repository("norms", "InferenceRMSNorm"), "rotary_pos_emb": repository("rotary", "InferenceRotary")}
    mapping = {name: {"cpu": kernel} for name, kernel in kernels.items()}
    model, inputs = build("llama")
    _, expected = loss_and_gradients(model, model, inputs)
    run = kernelize(model, mapping=mapping)
    _, found_gradients = loss_and_gradients(run, run, inputs)
    assert executions("norms")["InferenceRMSNorm"] >= 5
    torch.testing.assert_close(found_gradients, expected)


def test_identical_decoder_layers_compiled_by_name_share_one_graph():
    model, inputs = build("llama")
    with torch.no_grad():
        expected = model(**inputs).logits
        with fxkernels.use_kernel_mapping(MAPPING):
            for layer in model.model.layers:
                layer.compile(backend="hubkernels", options={"inner": "eager"}, fullgraph=True)
            torch.testing.assert_close(model(**inputs).logits, expected)
    report = fxkernels.last_report()
    assert len(report.graphs) == 1
    assert Counter(call.layer_name for call in report.rewritten) == {"RMSNorm": 2, "SiLU": 1, "rotary_pos_emb": 1}
    assert executions("norms")["RMSNorm"] == 2 * len(model.model.layers)


def test_a_text_tower_called_by_a_method_of_the_model_runs_kernels():
    model, inputs = build("clip")
    run = kernelize(model, mapping=MAPPING)
    with torch.no_grad():
        expected = model.get_image_features(pixel_values=inputs["pixel_values"])
        output = run.get_image_features(pixel_values=inputs["pixel_values"])
    torch.testing.assert_close(as_tensors(output), as_tensors(expected))
    assert executions("activations")["QuickGELU"] == 2


def test_bfloat16_results_agree_within_the_dtypes_tolerance():
    model, inputs = build("llama")
    model = model.to(torch.bfloat16)
    with torch.no_grad():
        expected = model(**inputs).logits
        output = kernelize(model, mapping=MAPPING)(**inputs).logits
    assert output.dtype is torch.bfloat16
    torch.testing.assert_close(output, expected)


def loss_and_gradients(run: nn.Module, model: nn.Module, inputs) -> tuple[torch.Tensor, list[torch.Tensor]]:
    loss = run(**inputs, labels=inputs["input_ids"]).loss
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


def as_tensors(output) -> list[torch.Tensor]:
    return [output] if isinstance(output, torch.Tensor) else tensors(output)
