"""bisect(): names the call whose kernel makes a check fail, and leaves the model as it was."""

from __future__ import annotations

import copy
import math
import random

import corpus
import pytest
import torch
from marked_models import Dropping, Sum, culprits, marked_stack
from torch import nn

import fxkernels
from fxkernels import bisect, hubkernels, kernelize


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 8)


def close_to(expected, **tolerance):
    def check(output):
        torch.testing.assert_close(output, expected, **tolerance)

    return check


@pytest.mark.parametrize("marked", [0, 3])
def test_the_call_with_the_wrong_kernel_is_named_wherever_it_is(x, marked):
    model = marked_stack(marked)
    culprit = bisect(model, (x,), check=close_to(model(x)), mapping=culprits("Adds"))
    assert culprit.key == f"blocks.{marked}.norm#0"
    assert culprit.alone
    assert culprit.earlier == tuple(f"blocks.{number}.norm#0" for number in range(marked))
    assert culprit.runs <= math.ceil(math.log2(culprit.calls)) + 3


def test_of_several_wrong_kernels_the_first_is_found(x):
    model = marked_stack(1, 3)
    assert bisect(model, (x,), check=close_to(model(x)), mapping=culprits("Adds")).key == "blocks.1.norm#0"


def test_a_kernel_that_does_harm_only_together_with_others_is_found_and_said_to_be(x):
    model = Sum(0, 2)
    expected = model(x)
    culprit = bisect(model, (x,), check=lambda output: (output - expected).abs().max() < 1, mapping=culprits("Adds"), capture="dynamo")
    assert (culprit.key, culprit.alone) == ("c#0", False)
    assert "it takes kernels of earlier calls as well, among a#0, b#0" in str(culprit)


def test_a_kernel_that_raises_is_the_culprit(x):
    culprit = bisect(marked_stack(2), (x,), check=lambda output: None, mapping=culprits("Raises"))
    assert culprit.key == "blocks.2.norm#0"
    assert "no such shape" in culprit.failure


def test_symbolically_kernelized_models_are_searched_too(x):
    model = Sum(2)
    culprit = bisect(model, (x,), check=close_to(model(x)), mapping=culprits("Adds"), capture="symbolic")
    assert (culprit.key, culprit.alone) == ("c#0", True)


def test_a_model_that_has_kernels_already_needs_no_options(x):
    model = marked_stack(3)
    expected = model(x)
    for given in (
        kernelize(model, mapping=culprits("Adds")),
        torch.compile(model, backend=hubkernels(mapping=culprits("Adds"))),
        torch.compile(kernelize(model, mapping=culprits("Adds"))),
    ):
        assert bisect(given, (x,), check=close_to(expected)).key == "blocks.3.norm#0"


def test_a_model_compiled_by_name_takes_its_options_from_there(x):
    model = marked_stack(3)
    compiled = torch.compile(model, backend="hubkernels", options={"mapping": culprits("Adds")})
    assert bisect(compiled, (x,), check=close_to(model(x))).key == "blocks.3.norm#0"


def test_the_check_may_go_backward_and_finds_the_gradients_in_the_model(x):
    model = marked_stack(3)
    model(x).sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    def check(output):
        output.sum().backward()
        return all(torch.allclose(parameter.grad, expected[name]) for name, parameter in model.named_parameters())

    culprit = bisect(model, (x,), check=check, mapping=culprits("WrongGradient"))
    assert (culprit.key, culprit.alone) == ("blocks.3.norm#0", True)
    assert all(torch.equal(parameter.grad, expected[name]) for name, parameter in model.named_parameters())


def test_dropout_drops_the_same_in_every_run_and_buffers_begin_anew(x):
    model = Dropping(3).train()
    state = torch.get_rng_state()
    expected = copy.deepcopy(model)(x)
    torch.set_rng_state(state)
    assert bisect(model, (x,), check=close_to(expected), mapping=culprits("Adds")).key == "stack.blocks.3.norm#0"


def test_nothing_of_the_model_the_arguments_or_the_generators_has_changed_afterwards(x):
    model = Dropping(3).train()
    x.requires_grad_()
    x.grad = torch.ones_like(x)
    before, gradient = copy.deepcopy(model.state_dict()), x.grad.clone()
    states = torch.get_rng_state(), random.getstate()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def check(output):
        random.random()
        output.sum().backward()
        optimizer.step()
        return output.isfinite().all()

    assert bisect(model, (x,), check=check, mapping=culprits("NotANumber")).key == "stack.blocks.3.norm#0"
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(x.grad, gradient)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert "report" not in vars(model)


def test_a_kernel_that_repacks_the_weights_does_no_harm_beyond_its_run(x):
    model = marked_stack(1)
    before = copy.deepcopy(model.state_dict())
    weight = model.blocks[1].norm.weight
    culprit = bisect(
        model, (x,), check=lambda output: torch.equal(weight, before["blocks.1.norm.weight"]), mapping=culprits("RepacksWeight")
    )
    assert culprit.key == "blocks.1.norm#0"
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_an_argument_that_remembers_is_new_in_every_run(x):
    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stack = marked_stack(2)

        def forward(self, x: torch.Tensor, seen: list[torch.Tensor]) -> torch.Tensor:
            seen.append(x)
            return self.stack(x) * len(seen)

    model, seen = Remembering(), []
    expected = model(x, [])
    assert bisect(model, (x, seen), check=close_to(expected), mapping=culprits("Adds")).key == "stack.blocks.2.norm#0"
    assert seen == []


@pytest.mark.slow
def test_a_transformers_model_is_searched_by_keyword_arguments():
    model, inputs = corpus.build("llama")
    norm = model.get_submodule("model.layers.1.input_layernorm")
    norm.variance_epsilon = 1e-3
    with torch.no_grad():
        expected = model(**inputs).logits
        culprit = bisect(model, kwargs=inputs, check=lambda output: torch.allclose(output.logits, expected), mapping=culprits("Adds"))
    assert culprit.path == "model.layers.1.input_layernorm"


def test_a_check_that_fails_without_kernels_is_said_to(x):
    with pytest.raises(ValueError, match="fails even without kernels, so none of them is at fault: NameError: name 'misspelt'"):
        bisect(marked_stack(1), (x,), check=lambda output: misspelt, mapping=culprits("Adds"))  # noqa: F821


def test_a_check_that_passes_with_every_kernel_is_said_to(x):
    with pytest.raises(ValueError, match=r"passes with every kernel \(5 calls\), so there is nothing to find"):
        bisect(marked_stack(), (x,), check=lambda output: True, mapping=culprits("Adds"))


def test_a_model_without_any_kernel_is_said_to_have_none(x):
    with pytest.raises(ValueError, match=r"no call has a kernel, so there is nothing to find: .*no_mapping"):
        bisect(marked_stack(), (x,), check=lambda output: False, mapping={"Other": culprits("Adds")["RMSNorm"]})


def test_options_for_a_model_that_has_its_own_are_refused(x):
    kernelized = kernelize(marked_stack(1), mapping=culprits("Adds"))
    with pytest.raises(ValueError, match="has kernels already, by its own options; give mapping= with the model that it came from"):
        bisect(kernelized, (x,), check=lambda output: True, mapping=culprits("Adds"))


def test_arguments_that_are_no_tuple_and_checks_that_are_no_function_are_refused(x):
    with pytest.raises(TypeError, match=r"bisect\(model, \(x,\), check=...\)"):
        bisect(marked_stack(), x, check=lambda output: True)
    with pytest.raises(TypeError, match="check= is a function of the model's output, not True"):
        bisect(marked_stack(), (x,), check=True)


def test_a_missing_kernel_where_one_is_demanded_is_the_users_error_and_no_failure_of_the_check(x):
    with pytest.raises(fxkernels.NoKernelError):
        bisect(marked_stack(), (x,), check=lambda output: True, mapping={"Other": culprits("Adds")["RMSNorm"]}, use_fallback=False)


def test_a_culprit_says_where_who_why_and_what_next(x):
    model = marked_stack(3)
    lines = str(bisect(model, (x,), check=close_to(model(x)), mapping=culprits("Adds"))).splitlines()
    assert lines[0] == "blocks.3.norm#0: its kernel makes the check fail"
    assert lines[2] == "  kernel  culprits:Adds (unverified)"
    assert lines[3] == "  check   AssertionError: Tensor-likes are not close!"
    assert "  found   in 6 runs, among 5 calls with kernels" in lines
    assert '  keep it out   verify="probe" refuses kernels that compute something else' in lines
    assert lines[-1] == "  by hand       FXKERNELS_FUEL=3 still passes, FXKERNELS_FUEL=4 fails"


@pytest.mark.slow
def test_the_fuel_that_a_culprit_names_makes_the_difference(monkeypatch, x):
    model = marked_stack(3)
    expected = model(x)
    before = len(bisect(model, (x,), check=close_to(expected), mapping=culprits("Adds")).earlier)
    for fuel, passes in ((before, True), (before + 1, False)):
        monkeypatch.setenv("FXKERNELS_FUEL", str(fuel))
        assert torch.allclose(kernelize(model, mapping=culprits("Adds"))(x), expected) is passes


@pytest.mark.slow
def test_more_runs_than_dynamo_permits_captures_find_the_culprit(x):
    model = marked_stack(70, blocks=80)
    culprit = bisect(model, (x,), check=close_to(model(x)), mapping=culprits("Adds"))
    assert (culprit.key, culprit.calls) == ("blocks.70.norm#0", 81)
    assert culprit.runs <= 10


@pytest.mark.slow
def test_the_fuel_in_the_environment_is_not_looked_at(monkeypatch, x):
    monkeypatch.setenv("FXKERNELS_FUEL", "0")
    model = marked_stack(3)
    assert bisect(model, (x,), check=close_to(model(x)), mapping=culprits("Adds")).key == "blocks.3.norm#0"
