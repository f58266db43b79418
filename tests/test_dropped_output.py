"""Outputs of a model that compiled code need not return, since nothing reads them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fxkernels import DroppedOutputError, FxKernelsError, hubkernels, kernelize
from fxkernels.backend import HubKernels
from fxkernels.builtin import builtin_repository
from fxkernels.dropped_output import DroppedOutput

MAPPING: dict[str, Any] = {"linear_cross_entropy": {"cpu": builtin_repository("linear_cross_entropy")}}
LOSS = "linear_cross_entropy"


@pytest.fixture(autouse=True)
def reset() -> None:
    torch.compiler.reset()


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 96}
    return LlamaForCausalLM(LlamaConfig(**sizes, use_cache=False)).train()


TOKENS = torch.arange(24).view(2, 12)


def backend(**options: Any) -> HubKernels:
    return hubkernels(inner="aot_eager", mapping=MAPPING, **options)


def step(model: LlamaForCausalLM, run: Any) -> tuple[torch.Tensor, Any, dict[str, torch.Tensor]]:
    """The loss, the logits, and the gradients of a training step."""
    output = run(TOKENS, labels=TOKENS)
    model.zero_grad()
    output.loss.backward()
    return output.loss.detach(), output.logits, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("way", ["torch.compile", "kernelize"])
def test_logits_that_nothing_reads_are_not_computed_and_loss_and_gradients_are_the_models(model: LlamaForCausalLM, way: str) -> None:
    if way == "kernelize":
        run = kernelize(model, mapping=MAPPING, drop_outputs=LOSS)
        report = lambda: run.report  # noqa: E731
    else:
        chosen = backend(drop_outputs=LOSS)
        run = torch.compile(model, backend=chosen)
        report = lambda: chosen.report  # noqa: E731
    loss, logits, gradients = step(model, run)
    expected, _, theirs = step(model, model)
    assert isinstance(logits, DroppedOutput)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients, theirs)
    assert [call.layer_name for call in report().rewritten] == [LOSS]
    assert "logits, output 1 of a graph, is not returned: drop_outputs= says that nothing reads it" in report().notes


def test_without_the_option_the_call_misses_and_the_report_names_it(model: LlamaForCausalLM) -> None:
    chosen = backend()
    _, logits, _ = step(model, torch.compile(model, backend=chosen))
    torch.testing.assert_close(logits, model(TOKENS).logits)
    (call,) = [call for call in chosen.report.calls if call.layer_name == LOSS]
    assert call.miss is not None
    assert call.miss.code == "escape"
    assert "or with drop_outputs='linear_cross_entropy' if nothing reads it" in " ".join(str(chosen.report.why(call.path)).split())


def test_where_no_kernel_runs_the_compiler_need_not_keep_the_logits_either(model: LlamaForCausalLM) -> None:
    returned: list[int] = []

    def inner(gm: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        returned.append(len(gm.graph.output_node().args[0]))
        return gm.forward

    for options in ({}, {"drop_outputs": LOSS}):
        torch.compiler.reset()
        chosen = hubkernels(inner=inner, mapping=MAPPING, exclude="*", **options)
        loss, logits, _ = step(model, torch.compile(model, backend=chosen))
        torch.testing.assert_close(loss, step(model, model)[0])
        assert chosen.report.rewritten == ()
        assert isinstance(logits, DroppedOutput) is bool(options)
    assert returned == [2, 1]


def test_without_labels_the_logits_are_what_the_model_is_asked_for(model: LlamaForCausalLM) -> None:
    run = torch.compile(model, backend=backend(drop_outputs=LOSS))
    torch.testing.assert_close(run(TOKENS).logits, model(TOKENS).logits)


USES: dict[str, Any] = {
    "an attribute": lambda dropped: dropped.shape,
    "a method": lambda dropped: dropped.argmax(-1),
    "an index": lambda dropped: dropped[:, -1],
    "a function of torch": lambda dropped: torch.softmax(dropped, -1),
    "a function of torch that takes a list": lambda dropped: torch.stack([dropped, dropped]),
    "arithmetic": lambda dropped: 2.0 * dropped,
    "a power": lambda dropped: dropped**2,
    "a comparison": lambda dropped: dropped == 0,
    "its length": len,
    "a loop": list,
}


@pytest.mark.parametrize("use", USES)
def test_reading_a_dropped_output_is_an_error_that_names_the_option(use: str) -> None:
    with pytest.raises(DroppedOutputError, match="was not returned") as raised:
        USES[use](DroppedOutput([LOSS]))
    assert "drop_outputs=('linear_cross_entropy',) said that nothing reads it" in str(raised.value)
    assert isinstance(raised.value, FxKernelsError)


def test_what_asks_whether_an_output_has_an_attribute_before_it_reads_it_leaves_a_dropped_one_alone() -> None:
    """As accelerate does with all outputs of a model under mixed precision, which it converts to float32."""
    assert not hasattr(DroppedOutput([LOSS]), "dtype")


@pytest.mark.parametrize("given", [None, 3, b"linear_cross_entropy", [LOSS, 3]])
def test_layer_names_that_are_none_are_an_error_that_names_the_option(given: Any) -> None:
    with pytest.raises(TypeError, match=r"drop_outputs= is a string or several, not "):
        backend(drop_outputs=given)


def test_a_layer_name_that_has_no_kernel_is_an_error_that_names_those_that_have() -> None:
    with pytest.raises(ValueError, match="drop_outputs= has 'cross_entropy', to which no kernel is mapped.*: linear_cross_entropy"):
        backend(drop_outputs=[LOSS, "cross_entropy"])


def test_a_dropped_output_can_be_handed_on_shown_and_copied() -> None:
    assert repr(copy.deepcopy(DroppedOutput([LOSS]))) == "DroppedOutput(linear_cross_entropy)"
