"""numerics(): kernel and layer side by side on the inputs of a real call."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from layers import Norm, Stack
from marked_models import Dropping, Sum, culprits, marked_stack
from torch import nn
from torch.utils.checkpoint import checkpoint

from fxkernels import Mode, Report, hubkernels, kernelize, numerics, use_kernel_mapping


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 8)


def measured(model, kernel, *args, **options):
    kernelized = kernelize(model, mapping=culprits(kernel), **options)
    kernelized(*args)
    return numerics(kernelized, *args)


def test_the_kernel_that_is_off_comes_first_with_what_it_is_off_by(x):
    found = measured(marked_stack(3), "Adds", x)
    worst = found.worst
    assert (worst.key, worst.kernel, worst.dtype) == ("blocks.3.norm#0", "culprits:Adds", "float32")
    assert worst.value.largest == pytest.approx(0.6, abs=1e-5)
    assert len(found.calls) == 5


def test_errors_do_not_add_up_because_every_kernel_gets_the_layers_inputs(x):
    found = measured(marked_stack(0), "Adds", x)
    assert [call.value.relative for call in found.calls[1:]] == [0.0] * 4


def test_float64_says_whether_kernel_or_layer_is_further_off(x):
    worst = measured(marked_stack(3), "Coarse", x).worst
    assert worst.key == "blocks.3.norm#0"
    assert 1e-4 < worst.kernel_error < 1e-2
    assert worst.layer_error < 1e-6


def test_what_is_not_a_number_comes_before_what_is_far_off(x):
    model = marked_stack(1, 3)
    with torch.no_grad():
        model.blocks[3].norm.weight.zero_()  # far off in relation, as there is nothing to relate to
    found = measured(model, "NotANumber", x)
    assert {call.key for call in found.calls[:2]} == {"blocks.1.norm#0", "blocks.3.norm#0"}
    assert found.worst.value.unlike == 3
    assert found.worst.kernel_error == float("inf")


def test_a_wrong_gradient_is_seen_where_gradients_flow(x):
    worst = measured(marked_stack(3), "WrongGradient", x).worst
    assert worst.key == "blocks.3.norm#0"
    assert worst.value.relative == 0.0
    assert worst.gradient.relative > 0.1
    with torch.no_grad():
        assert measured(marked_stack(3), "WrongGradient", x).worst.gradient is None


def test_a_kernel_that_raises_is_first_and_the_others_are_measured_all_the_same(x):
    model = kernelize(marked_stack(2), mapping=culprits("Raises"), example_args=(x,))
    found = numerics(model, x)
    assert (found.worst.key, found.worst.problem) == ("blocks.2.norm#0", "the kernel raises RuntimeError: no such shape")
    assert len(found.calls) == 5


def test_a_kernel_that_overwrites_a_weight_is_told_and_the_weight_stays(x):
    model = marked_stack(2)
    before = copy.deepcopy(model.state_dict())
    assert measured_without_running(model, "RepacksWeight", x).worst.problem == "the kernel overwrites self.weight"
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def measured_without_running(model, kernel, *args):
    kernelized = kernelize(model, mapping=culprits(kernel))
    return numerics(kernelized, *args)


def test_the_model_its_buffers_and_the_generators_stay_as_they_are(x):
    model = Dropping(1).train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = measured_without_running(model, "Adds", x)
    assert found.worst.key == "stack.blocks.1.norm#0"
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_calls_in_checkpoints_and_between_graph_breaks_are_measured(x):
    for around in (
        lambda block, x: checkpoint(block, x, use_reentrant=False),
        lambda block, x: (torch._dynamo.graph_break(), block(x))[1],
    ):
        model = Stack(2, around)
        model.blocks[1].norm.variance_epsilon = 1e-3
        found = measured_without_running(model, "Adds", x)
        assert {call.key for call in found.calls} == {"blocks.0.norm#0", "blocks.1.norm#0", "norm#0"}
        assert found.worst.key == "blocks.1.norm#0"


def test_a_layer_that_is_called_twice_has_two_entries(x):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = Norm()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.norm(x))

    assert {call.key for call in measured_without_running(Twice(), "Adds", x).calls} == {"norm#0", "norm#1"}


def test_a_report_without_graphs_measures_the_model_that_it_is_given(x):
    model = marked_stack(3)
    kernelized = kernelize(model, mapping=culprits("Adds"), example_args=(x,))
    report = pickle.loads(pickle.dumps(kernelized.report))
    assert report.graphs == ()
    assert numerics(kernelized, x, report=report).worst.key == "blocks.3.norm#0"
    with use_kernel_mapping(culprits("Adds")):
        assert numerics(model, x, report=report).worst.key == "blocks.3.norm#0"


def test_a_compiled_model_is_measured_with_its_own_options(x):
    model = marked_stack(3)
    backend = hubkernels(mapping=culprits("Adds"), exclude="blocks.0.*")
    compiled = torch.compile(model, backend=backend)
    found = numerics(compiled, x)
    assert found.worst.key == "blocks.3.norm#0"
    assert len(found.calls) == 4


def test_a_symbolically_kernelized_model_is_measured(x):
    kernelized = kernelize(Sum(2), mapping=culprits("Adds"), capture="symbolic")
    assert numerics(kernelized, x).worst.key == "c#0"


@pytest.mark.parametrize("capture", ["dynamo", "symbolic"])
def test_the_training_flags_are_those_of_the_model_that_has_the_kernels(x, capture):
    mapping = {
        "RMSNorm": {"cpu": {Mode.TRAINING: culprits("Adds")["RMSNorm"]["cpu"], Mode.INFERENCE: culprits("Coarse")["RMSNorm"]["cpu"]}}
    }
    kernelized = kernelize(Sum(2).train(), mapping=mapping, capture=capture).eval()
    assert numerics(kernelized, x).worst.kernel == "culprits:Coarse"
    assert numerics(kernelized.train(), x).worst.kernel == "culprits:Adds"


def test_calls_that_should_have_run_and_did_not_are_named(x):
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Norm(), Norm()

        def forward(self, x: torch.Tensor, both: bool) -> torch.Tensor:
            return self.second(self.first(x)) if both else self.first(x)

    kernelized = kernelize(Sometimes(), mapping=culprits("Adds"))
    kernelized(x, True)
    found = numerics(kernelized, x, both=False)
    assert found.missing == ("second#0",)
    assert "not called in this run: second#0" in str(found)
    assert numerics(kernelized, x, both=False, report=Report()).missing == ()


def test_a_model_whose_own_attribute_is_called_report_is_measured(x):
    class Reporting(Stack):
        report = "this year's figures"

    model = Reporting(1)
    vars(model)["report"] = model.report
    with use_kernel_mapping(culprits("Adds")):
        assert numerics(model, x).missing == ()


def test_a_model_without_kernels_is_an_error_that_says_what_to_give(x):
    with pytest.raises(ValueError, match=r"no call of this run has a kernel.*no_mapping(.|\n)*Give the kernelized model"):
        numerics(Stack(), x)


def test_half_precision_is_compared_in_float64(x):
    model = marked_stack(3).to(torch.bfloat16)
    found = measured_without_running(model, "Adds", x.to(torch.bfloat16))
    assert found.worst.dtype == "bfloat16"
    assert all(1e-4 < call.layer_error < 1e-2 for call in found.calls)


def test_inputs_that_repeat_their_elements_are_measured():
    assert len(measured_without_running(marked_stack(), "Adds", torch.randn(1, 8).expand(3, 8)).calls) == 5
