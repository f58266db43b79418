"""kernelize(): the model stays what it is, the copy runs kernels, whatever is done with it."""

from __future__ import annotations

import copy
import gc
import logging
import os
import pickle
import subprocess
import sys
import weakref

import pytest
import torch
from kernel_repositories import FOLDER, executions, repository, reset_executions
from layers import Norm, Stack, gradients
from torch import nn

import fxkernels
from fxkernels import (
    CaptureError,
    KernelizeFallback,
    KernelRuntimeError,
    LocalLayerRepository,
    Mode,
    NoKernelError,
    RepositoryError,
    explain,
    kernelize,
    use_kernel_forward_from_hub,
    use_kernel_mapping,
)
from fxkernels.capture import _torch


def norms(layer_name="RMSNorm"):
    return {"RMSNorm": {"cpu": repository("norms", layer_name)}}


def runs(layer_name="RMSNorm"):
    return executions("norms")[layer_name]


@pytest.fixture(autouse=True)
def fresh_counters() -> None:
    reset_executions("norms")


@pytest.fixture
def model() -> Stack:
    return Stack()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 8)


def test_the_copy_has_the_models_values_and_gradients(model, x):
    copied = kernelize(model, mapping=norms())
    expected, expected_gradients = gradients(model, x, list(model.parameters()))
    output, output_gradients = gradients(copied, x, list(copied.parameters()))
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(output_gradients, expected_gradients)
    assert runs() == 3


def test_the_model_and_its_class_are_untouched(model, x):
    state, attributes = copy.deepcopy(model.state_dict()), {name: dict(vars(module)) for name, module in model.named_modules()}
    classes, before = {name: dict(vars(type(module))) for name, module in model.named_modules()}, model(x)
    kernelize(model, mapping=norms())(x)
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == attributes
    assert {name: dict(vars(type(module))) for name, module in model.named_modules()} == classes
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(model(x), before)


def test_two_copies_with_two_mappings_live_side_by_side(model, x):
    with_kernels, without = kernelize(model, mapping=norms()), kernelize(model, mapping={})
    with_kernels(x), without(x)
    assert runs() == 3
    assert len(with_kernels.report.rewritten) == 3
    assert len(without.report.rewritten) == 0


def test_the_copy_shares_the_models_weights(model, x):
    copied = kernelize(model, mapping=norms())
    copied(x)
    with torch.no_grad():
        model.norm.weight.fill_(2.0)
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()}, assign=True)
    torch.testing.assert_close(copied(x), model(x))


def test_train_and_eval_switch_a_kernel_without_backward_off_and_on(model, x):
    copied = kernelize(model.eval(), mapping=norms("InferenceRMSNorm"))
    copied(x)
    assert runs("InferenceRMSNorm") == 3
    copied.train()
    copied(x)
    assert runs("InferenceRMSNorm") == 3
    assert {call.miss.code for call in copied.report.calls} == {"no_backward"}
    copied.eval()
    copied(x)
    assert runs("InferenceRMSNorm") == 6


def test_the_training_flag_counts_per_submodule(model, x):
    copied = kernelize(model.eval(), mapping=norms("InferenceRMSNorm"))
    copied.blocks[0].train()
    copied(x)
    assert runs("InferenceRMSNorm") == 2


def test_a_train_method_of_the_users_decides_for_its_children(x):
    class FrozenNorms(Stack):
        def train(self, mode: bool = True):
            super().train(mode)
            self.norm.eval()
            return self

    copied = kernelize(FrozenNorms(), mapping=norms("InferenceRMSNorm"))
    copied.train()
    copied(x)
    assert runs("InferenceRMSNorm") == 1


def test_in_eval_mode_a_gradient_through_a_kernel_without_backward_is_the_originals(model, x):
    copied = kernelize(model.eval(), mapping=norms("InferenceRMSNorm"))
    expected, expected_gradients = gradients(model, x, list(model.parameters()))
    output, output_gradients = gradients(copied, x, list(copied.parameters()))
    assert runs("InferenceRMSNorm") == 3
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(output_gradients, expected_gradients)


def test_a_kernel_that_detaches_its_output_gets_the_originals_gradient_and_a_warning(model, x, caplog):
    copied = kernelize(model, mapping=norms("DetachedRMSNorm"))
    _, expected = gradients(model, x, list(model.parameters()))
    with caplog.at_level(logging.WARNING, "fxkernels"):
        _, found = gradients(copied, x, list(copied.parameters()))
    torch.testing.assert_close(found, expected)
    assert "detached" in caplog.text


def test_a_kernel_that_no_compiler_can_trace_runs_in_the_copy(model, x):
    copied = kernelize(model, mapping=norms("UntraceableRMSNorm"))
    torch.testing.assert_close(copied(x), model(x))
    assert runs("UntraceableRMSNorm") == 3


def test_needs_torch_compile_takes_only_kernels_that_declare_it(model, x):
    copied = kernelize(model, mapping=norms("UntraceableRMSNorm"), needs_torch_compile=True)
    copied(x)
    assert runs("UntraceableRMSNorm") == 0
    assert {call.miss.code for call in copied.report.calls} == {"not_compilable"}


def test_class_methods_and_state_dict_keys_stay(model):
    copied = kernelize(model, mapping=norms())
    assert type(copied) is type(model)
    assert list(copied.state_dict()) == list(model.state_dict())
    assert repr(copied) == repr(model)


def test_children_and_methods_called_on_their_own_run_kernels(model, x):
    copied = kernelize(model, mapping=norms())
    torch.testing.assert_close(copied.encode(x), model.encode(x))
    assert runs() == 1
    torch.testing.assert_close(copied.norm(x), model.norm(x))
    assert runs() == 2
    assert {call.path for call in copied.report.rewritten} == {"blocks.0.norm", "norm"}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("used_before", [False, True])
def test_a_duplicate_stays_kernelized_and_has_weights_of_its_own(x, duplicate, used_before):
    model = PicklableStack().eval()
    copied = kernelize(model, mapping=norms())
    if used_before:
        copied(x)
    again = duplicate(copied)
    reset_executions("norms")
    torch.testing.assert_close(again(x), model(x))
    assert runs() == 3
    assert len(again.report.rewritten) == 3
    with torch.no_grad():
        again.norm.weight.add_(1)
    assert not torch.equal(again(x), model(x))
    torch.testing.assert_close(fxkernels.original(again)(x), again(x))


class PicklableStack(Stack):
    """`Stack` holds a lambda."""

    def __init__(self):
        super().__init__(around=call)


def call(block, x):
    return block(x)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_an_outer_torch_compile_gets_the_kernels(model, x, backend):
    copied = kernelize(model, mapping=norms("CountedRMSNorm"), needs_torch_compile=True)
    output = torch.compile(copied, backend=backend, fullgraph=True)(x)
    torch.testing.assert_close(output, model(x))
    assert runs("CountedRMSNorm") == 3
    assert len(copied.report.rewritten) == 3


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_larger_compiled_model_contains_the_kernels_of_its_kernelized_part(model, x, backend):
    class Larger(nn.Module):
        def __init__(self, part):
            super().__init__()
            self.part, self.norm = part, Norm()

        def forward(self, x):
            return self.norm(self.part(x))

    larger = Larger(kernelize(model, mapping=norms("CountedRMSNorm"), needs_torch_compile=True))
    seen = []

    def spy(gm, example_inputs):
        seen.append(gm.code)
        return torch._dynamo.lookup_backend(backend)(gm, example_inputs)

    output = torch.compile(larger, backend=spy, fullgraph=True)(x)
    torch.testing.assert_close(output, larger.norm(model(x)))
    assert runs("CountedRMSNorm") == 3  # the larger model's own norm was not kernelized
    assert seen[0].count("= fxkernels_kernels_call_kernel_CountedRMSNorm") == 3


def test_original_gives_the_model_that_the_copy_came_from(model):
    assert fxkernels.original(kernelize(model, mapping=norms())) is model
    with pytest.raises(ValueError, match="not the result of kernelize"):
        fxkernels.original(model)


def test_the_report_is_pending_until_the_first_call(model, x):
    copied = kernelize(model, mapping=norms())
    assert copied.report.pending
    copied(x)
    assert not copied.report.pending


def test_with_example_arguments_the_report_is_there_at_once_and_no_kernel_has_run(model, x):
    copied = kernelize(model, mapping=norms(), example_args=(x,))
    assert [call.status for call in copied.report.calls] == ["rewritten"] * 3
    assert runs() == 0
    torch.testing.assert_close(copied(x), model(x))
    assert runs() == 3


def test_explain_reports_without_running_anything(model, x):
    with use_kernel_mapping(norms()):
        report = explain(model, x)
    assert [call.status for call in report.calls] == ["rewritten"] * 3
    assert runs() == 0


def test_without_fallback_every_call_without_a_kernel_is_named_and_no_kernel_has_run(model, x):
    mapping = {"RMSNorm": {"cuda": repository("norms", "RMSNorm")}}
    copied = kernelize(model, mapping=mapping, use_fallback=False)
    with pytest.raises(NoKernelError) as caught:
        copied(x)
    assert [path for path, _, _ in caught.value.misses] == ["blocks.0.norm#0", "blocks.1.norm#0", "norm#0"]
    assert {miss.code for _, _, miss in caught.value.misses} == {"no_device"}
    with pytest.raises(NoKernelError):
        kernelize(model, mapping=mapping, use_fallback=False, example_args=(x,))


@pytest.mark.parametrize(
    ("mapping", "flag"),
    [
        ({}, KernelizeFallback.NO_LAYER),
        ({"RMSNorm": {"cuda": repository("norms", "RMSNorm")}}, KernelizeFallback.NO_DEVICE),
        ({"RMSNorm": {"cpu": {Mode.TRAINING | Mode.TORCH_COMPILE: repository("norms", "RMSNorm")}}}, None),
        ({"RMSNorm": {"cpu": {Mode.INFERENCE: repository("norms", "RMSNorm")}}}, KernelizeFallback.NO_COMPATIBLE_MODE),
        ({"RMSNorm": {"cpu": repository("broken-import", "RMSNorm")}}, KernelizeFallback.CANNOT_LOAD),
    ],
)
def test_each_fallback_flag_permits_its_own_case(model, x, mapping, flag):
    for permitted in KernelizeFallback:
        copied = kernelize(model.train(), mapping=mapping, use_fallback=permitted)
        if flag is None or permitted & flag:
            copied(x)
        else:
            with pytest.raises((NoKernelError, RepositoryError)):
                copied(x)


def test_a_repository_that_cannot_be_loaded_is_an_error_unless_the_fallback_permits_it(model, x):
    mapping = {"RMSNorm": {"cpu": repository("broken-import", "RMSNorm")}}
    with pytest.raises(RepositoryError, match="broken-import"):
        kernelize(model, mapping=mapping)(x)
    copied = kernelize(model, mapping=mapping, use_fallback=KernelizeFallback.ALL)
    torch.testing.assert_close(copied(x), model(x))
    assert {call.miss.code for call in copied.report.calls} == {"load_error"}


def test_the_next_candidate_is_tried_where_the_first_one_misses(model, x):
    mapping = {"RMSNorm": {"cpu": {Mode.TRAINING: repository("norms", "InferenceRMSNorm"), Mode.FALLBACK: repository("norms", "RMSNorm")}}}
    copied = kernelize(model.train(), mapping=mapping)
    copied(x)
    assert runs() == 3
    (decision,) = copied.report.calls[0].decisions
    assert [miss.code for miss in decision.misses] == ["no_backward"]


@pytest.mark.parametrize(
    ("name", "layer_name", "code"),
    [
        ("broken", "OwnInit", "own_state"),
        ("broken", "ExtraState", "own_state"),
        ("broken", "MoreParameters", "signature"),
        ("broken", "FewerParameters", "signature"),
        ("norms", "EpsRMSNorm", "missing_attribute"),
        ("norms", "Float32RMSNorm", "output_metadata"),
    ],
)
def test_a_kernel_layer_that_cannot_stand_in_is_a_miss_and_the_model_keeps_working(name, layer_name, code):
    model, x = Stack().to(torch.bfloat16), torch.randn(3, 8, dtype=torch.bfloat16)
    copied = kernelize(model, mapping={"RMSNorm": {"cpu": repository(name, layer_name)}})
    assert torch.equal(copied(x), torch.compile(model, backend="eager")(x))
    assert {call.miss.code for call in copied.report.calls} == {code}


def test_a_kernel_that_raises_names_path_and_kernel_and_is_not_swallowed(model, x):
    with pytest.raises(KernelRuntimeError) as caught:
        kernelize(model, mapping=norms("RaisingRMSNorm"))(x)
    assert "blocks.0.norm#0" in str(caught.value)
    assert "RaisingRMSNorm" in str(caught.value)


def test_a_model_without_parameters_needs_a_device():
    with pytest.raises(ValueError, match="give device="):
        kernelize(nn.Sequential(nn.ReLU()), mapping={})
    kernelize(nn.Sequential(nn.ReLU()), mapping={}, device="cpu")


def test_calls_on_another_device_than_the_one_asked_for_keep_the_original(model, x):
    copied = kernelize(model, mapping=norms(), device="cuda")
    copied(x)
    assert {call.miss.code for call in copied.report.calls} == {"no_device"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"device": "gpu"},
        {"capture": "magic"},
        {"mode": Mode.FALLBACK},
        {"mapping": {"RMSNorm": {"toaster": repository("norms", "RMSNorm")}}},
    ],
)
def test_values_that_make_no_sense_are_value_errors(model, wrong):
    with pytest.raises(ValueError):  # noqa: PT011
        kernelize(model, **{"mapping": {}, **wrong})


@pytest.mark.parametrize("wrong", [{"use_fallback": "yes"}, {"mode": "training"}, {"mapping": {"RMSNorm": {"cpu": object()}}}])
def test_values_of_the_wrong_type_are_type_errors(model, wrong):
    with pytest.raises(TypeError):
        kernelize(model, **{"mapping": {}, **wrong})


def test_only_modules_can_be_kernelized():
    with pytest.raises(TypeError, match="torch.nn.Module"):
        kernelize(lambda x: x)


def test_a_path_without_build_is_an_error_that_names_it(model, x):
    mapping = {"RMSNorm": {"cpu": LocalLayerRepository(FOLDER / "broken-no-build", layer_name="RMSNorm")}}
    with pytest.raises(RepositoryError, match="build"):
        kernelize(model, mapping=mapping)(x)


def test_a_condition_that_is_false_keeps_the_original(x):
    @use_kernel_forward_from_hub("RMSNorm", condition=lambda layer: layer.variance_epsilon < 1e-3)
    class Conditional(Norm):
        pass

    class Two(Stack):
        def __init__(self):
            super().__init__(blocks=0)
            self.first, self.norm = Conditional(eps=1e-6), Conditional(eps=1e-1)

        def forward(self, x):
            return self.norm(self.first(x))

    copied = kernelize(Two(), mapping=norms())
    copied(x)
    assert {call.path: call.status for call in copied.report.calls} == {"first": "rewritten", "norm": "missed"}


def test_nothing_rewritten_is_a_warning_and_something_rewritten_is_not(model, x, caplog):
    with caplog.at_level(logging.INFO, "fxkernels"):
        kernelize(model, mapping=norms())(x)
        assert {record.levelname for record in caplog.records} == {"INFO"}
        caplog.clear()
        kernelize(model, mapping={})(x)
        assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_the_last_report_keeps_no_model_alive(x):
    model = Stack()
    copied = kernelize(model, mapping=norms())
    copied(x)
    report = fxkernels.last_report()
    assert report is copied.report
    alive = weakref.ref(model.blocks[0].linear.weight)
    del model, copied
    torch._dynamo.reset()
    gc.collect()
    assert alive() is None
    assert len(report.rewritten) == 3


def test_the_recompile_limit_is_a_warning_in_log_and_report(model, caplog):
    copied = kernelize(model.eval(), mapping=norms())
    with torch._dynamo.config.patch(recompile_limit=1), caplog.at_level(logging.WARNING, "fxkernels"):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            torch.testing.assert_close(copied.to(dtype)(torch.ones(3, 8, dtype=dtype)), model(torch.ones(3, 8, dtype=dtype)))
    assert "recompile limit" in caplog.text
    assert any("recompile limit was reached in 'forward'" in note for note in copied.report.notes)


def test_capture_symbolic_is_refused_where_it_is_not_exact(model):
    with pytest.raises(CaptureError, match="symbolic"):
        kernelize(model, mapping=norms(), capture="symbolic")


class Plain(nn.Module):
    """A model that torch.fx traces exactly."""

    def __init__(self):
        super().__init__()
        self.first, self.linear, self.second = Norm(), nn.Linear(8, 8), Norm()

    def forward(self, x):
        return self.second(x + self.linear(self.first(x)))


def test_an_exactly_traceable_model_becomes_a_graph_module(x):
    model = Plain()
    copied = kernelize(model, mapping=norms())
    assert isinstance(copied, torch.fx.GraphModule)
    torch.testing.assert_close(copied(x), model(x))
    assert runs() == 2
    assert copied.report.capture == "symbolic"
    assert fxkernels.original(copied) is model


def test_train_and_eval_switch_kernels_in_a_graph_module_too(x):
    model = Plain().eval()
    copied = kernelize(model, mapping=norms("InferenceRMSNorm"))
    _, expected = gradients(model, x, list(model.parameters()))
    _, found = gradients(copied, x, list(copied.parameters()))
    torch.testing.assert_close(found, expected)
    assert runs("InferenceRMSNorm") == 2
    copied.train()
    copied(x)
    assert runs("InferenceRMSNorm") == 2
    copied.second.eval()
    copied(x)
    assert runs("InferenceRMSNorm") == 3


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"])
def test_a_duplicated_graph_module_stays_kernelized(x, duplicate):
    model = Plain().eval()
    again = duplicate(kernelize(model, mapping=norms()))
    torch.testing.assert_close(again(x), model(x))
    assert runs() == 2
    assert len(again.report.rewritten) == 2
    torch.testing.assert_close(fxkernels.original(again)(x), model(x))


@pytest.mark.slow
def test_a_pickled_graph_module_runs_its_kernels_in_another_process(tmp_path):
    torch.manual_seed(1)
    model, x = Plain().eval(), torch.randn(3, 8)
    (tmp_path / "model.pickle").write_bytes(pickle.dumps((kernelize(model, mapping=norms()), x, model(x))))
    program = """
import pickle, sys
from kernel_repositories import executions
import torch, test_transform
model, x, expected = pickle.loads(open(sys.argv[1], "rb").read())
torch.testing.assert_close(model(x), expected)
assert executions("norms")["RMSNorm"] == 2
"""
    folder = FOLDER.parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(folder.parent)])}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "model.pickle")], check=True, cwd=folder, env=environment)


def test_a_graph_module_without_fallback_names_every_call_without_a_kernel(x):
    copied = kernelize(Plain(), mapping={}, use_fallback=False)
    assert (copied.report.pending, copied.report.capture) == (True, "symbolic")
    with pytest.raises(NoKernelError) as caught:
        copied(x)
    assert [path for path, _, _ in caught.value.misses] == ["first#0", "second#0"]
    with pytest.raises(NoKernelError, match="first"):
        kernelize(Plain(), mapping={}, use_fallback=False, example_args=(x,))


def test_without_fallback_the_present_mode_of_a_graph_module_counts(x):
    with pytest.raises(NoKernelError, match="no_backward"):
        kernelize(Plain().train(), mapping=norms("InferenceRMSNorm"), use_fallback=False, example_args=(x,))
    copied = kernelize(Plain().eval(), mapping=norms("InferenceRMSNorm"), use_fallback=False, example_args=(x,))
    assert [call.status for call in copied.report.calls] == ["rewritten"] * 2


def test_a_graph_module_can_be_compiled_with_its_kernels(x):
    model = Plain()
    copied = kernelize(model, mapping=norms("CountedRMSNorm"), needs_torch_compile=True)
    torch.testing.assert_close(torch.compile(copied, backend="aot_eager", fullgraph=True)(x), model(x))
    assert runs("CountedRMSNorm") == 2


@pytest.mark.skipif(not _torch.ISOLATED, reason="this torch counts the graphs of all copies together")
def test_the_tenth_copy_of_a_class_has_its_kernels_too() -> None:
    for _ in range(10):
        run = kernelize(Norm().eval(), mapping=norms(), capture="dynamo")
        run(torch.randn(3, 8))
    assert run.report.counts == {"rewritten": 1}


def test_a_model_can_be_explained_any_number_of_times() -> None:
    with use_kernel_mapping(norms()):
        reports = [explain(Norm().eval(), torch.randn(3, 8)) for _ in range(10)]
    assert [report.counts for report in reports] == [{"rewritten": 1}] * 10
