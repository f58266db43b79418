"""Fusions from a user's side: what is registered, what runs, and what the report says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxkernels
from fxkernels import (
    ANY,
    Fusion,
    Layer,
    LocalLayerRepository,
    alternative,
    explain,
    hubkernels,
    kernelize,
    register_fusion,
    use_fusions,
    use_kernel_mapping,
)
from fxkernels.builtin import builtin_repository
from fxkernels.fusions import current_fusions
from fxkernels.testing import assert_fused, assert_missed, assert_rewritten


class ScaleAndShift(Fusion):
    def forward(self, x: Any, scale: Any, shift: Any) -> Any:
        return F.layer_norm(x, ANY) * (1 + scale) + shift


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        h = F.layer_norm(x, (16,)) * (1 + scale) + shift
        return x + self.down(F.relu(self.up(h)))


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, scale, shift)
        return x


RIGHT = "torch.addcmul(shift, torch.nn.functional.layer_norm(x, x.shape[-1:]), 1 + scale)"
WRONG = f"{RIGHT} * 1.01"


def kernel(folder: Path, body: str) -> LocalLayerRepository:
    """A repository with a kernel for `ScaleAndShift`."""
    build = folder / "build" / "torch-cpu"
    build.mkdir(parents=True)
    (build / "__init__.py").write_text("from . import layers\n")
    (build / "layers.py").write_text(
        "import torch\n\n\nclass ScaleAndShift(torch.nn.Module):\n    has_backward = can_torch_compile = True\n\n"
        f"    def forward(self, x, scale, shift):\n        return {body}\n"
    )
    about = {"name": "scale", "id": f"_scale_{abs(hash(str(folder)))}", "version": 1, "license": "Apache-2.0", "python-depends": []}
    (build / "metadata.json").write_text(json.dumps({**about, "backend": {"type": "cpu"}}))
    return LocalLayerRepository(folder, layer_name="ScaleAndShift")


def inputs() -> tuple[Tensor, ...]:
    return torch.randn(2, 4, 16), torch.randn(2, 1, 16), torch.randn(2, 1, 16)


def test_a_composition_of_ones_own_runs_ones_own_kernel_with_the_models_values_and_gradients(tmp_path: Path) -> None:
    model, args = Blocks(), inputs()
    expected = model(*args)
    expected.sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    with use_fusions(ScaleAndShift):
        fast = kernelize(model, mapping={"ScaleAndShift": {"cpu": kernel(tmp_path, RIGHT)}}, verify="probe", capture="dynamo")
    output = fast(*args)
    output.sum().backward()
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close([parameter.grad for parameter in model.parameters()], gradients)
    assert_rewritten(fast.report, "blocks.0.ScaleAndShift", "blocks.1.ScaleAndShift")


def test_a_wrong_kernel_is_refused_with_evidence_and_the_operations_stay(tmp_path: Path) -> None:
    model, args = Blocks().eval(), inputs()
    with use_fusions(ScaleAndShift):
        fast = kernelize(model, mapping={"ScaleAndShift": {"cpu": kernel(tmp_path, WRONG)}}, verify="probe", capture="dynamo")
    assert torch.equal(fast(*args), model(*args))
    assert_missed(fast.report, "blocks.*.ScaleAndShift", code="numerics")


@pytest.mark.parametrize("several", [False, True])
def test_explain_finds_the_fusions_that_are_mapped_for_its_target(tmp_path: Path, several: bool) -> None:
    model, args = Blocks().eval(), inputs()
    with use_fusions(ScaleAndShift), use_kernel_mapping({"ScaleAndShift": {"cuda": kernel(tmp_path, RIGHT)}}):
        found = explain(model, *args, target=["cpu", "cuda:sm90"])["cuda:sm90"] if several else explain(model, *args, target="cuda:sm90")
        here = explain(model, *args)
    assert [call.layer_name for call in found.calls] == ["ScaleAndShift"] * 2
    assert here.calls == ()


def test_a_fusion_without_a_mapping_does_nothing_and_is_in_no_report() -> None:
    model, args = Blocks().eval(), inputs()
    with use_fusions(ScaleAndShift):
        backend = hubkernels(inner="eager", mapping={})
    assert torch.equal(torch.compile(model, backend=backend)(*args), model(*args))
    assert (backend.report.calls, backend.report.notes) == ((), ())


def test_a_fusion_that_is_mapped_and_matches_nothing_says_how_far_it_got(tmp_path: Path) -> None:
    class Other(nn.Module):
        def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
            return F.layer_norm(x, (16,)) * (2 + scale) + shift

    with use_fusions(ScaleAndShift):
        backend = hubkernels(inner="eager", mapping={"ScaleAndShift": {"cpu": kernel(tmp_path, RIGHT)}})
    torch.compile(Other(), backend=backend)(*inputs())
    (note,) = backend.report.notes
    assert note.startswith("fusion ScaleAndShift is mapped and matched nothing; nearest: 3 of 4 operations of ScaleAndShift.forward")
    assert re.search(r"at add \(test_fusion.py:\d+\) the pattern has add with self=1, the graph add with self=2$", note)
    with pytest.raises(AssertionError, match="ScaleAndShift was found in 0 places, 1 were expected\n  fusion ScaleAndShift is mapped"):
        assert_fused(backend.report, ScaleAndShift=1)


def test_what_is_used_outside_is_a_miss_that_says_so(tmp_path: Path) -> None:
    def model(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        normed = F.layer_norm(x, (16,))
        return normed * (1 + scale) + shift, normed

    with use_fusions(ScaleAndShift):
        backend = hubkernels(inner="eager", mapping={"ScaleAndShift": {"cpu": kernel(tmp_path, RIGHT)}}, use_fallback=False)
    args = inputs()
    torch.testing.assert_close(torch.compile(model, backend=backend)(*args), model(*args), rtol=0, atol=0)
    assert_missed(backend.report, "ScaleAndShift", code="escape")


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.rand(16)), 1e-6

    def forward(self, hidden_states: Tensor) -> Tensor:
        wide = hidden_states.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(hidden_states.dtype)


fxkernels.replace_kernel_forward_from_hub(Norm, "RMSNorm")


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = Norm()

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = y + x
        return self.norm(x), x


def test_the_atoms_of_a_fusion_are_covered_and_have_their_turn_where_it_misses() -> None:
    model, args = Residual().eval(), (torch.randn(3, 16), torch.randn(3, 16))
    both = {name: {"cpu": builtin_repository(name)} for name in ("AddRMSNorm", "RMSNorm")}
    fast = kernelize(model, mapping=both)
    torch.testing.assert_close(fast(*args), model(*args))
    assert {call.path: call.status for call in fast.report.calls} == {"AddRMSNorm": "rewritten", "norm": "covered"}
    backend = hubkernels(inner="eager", mapping=both, exclude="AddRMSNorm")
    torch.testing.assert_close(torch.compile(model, backend=backend)(*args), model(*args))
    assert {call.path: call.status for call in backend.report.calls} == {"AddRMSNorm": "excluded", "norm": "rewritten"}


def test_training_mode_of_the_atoms_counts_per_submodule() -> None:
    model, args = Residual(), (torch.randn(3, 16), torch.randn(3, 16))
    backend = hubkernels(inner="eager", mapping={"AddRMSNorm": {"cpu": builtin_repository("AddRMSNorm")}})
    run = torch.compile(model, backend=backend)
    for training in (True, False, True):
        model.train(training)
        torch.testing.assert_close(run(*args), model(*args))
    assert {decision.training for decision in backend.report.calls[0].decisions} == {True, False}


# --- registration -------------------------------------------------------------------------------------------------------------------------


def test_shipped_registered_and_used_fusions_are_in_force() -> None:
    assert {"AddRMSNorm", "SwiGLU", "attention", "linear_cross_entropy"} <= current_fusions().keys()
    with use_fusions(ScaleAndShift):
        assert current_fusions()["ScaleAndShift"] is ScaleAndShift
    assert "ScaleAndShift" not in current_fusions()


def test_a_layer_name_belongs_to_one_fusion() -> None:
    class First(Fusion):
        layer_name = "taken_by_a_test"

        def forward(self, x: Any) -> Any:
            return x.tanh().sin()

    class Second(First):
        layer_name = "taken_by_a_test"

    assert register_fusion(First) is First
    assert register_fusion(First) is First
    with pytest.raises(ValueError, match="the layer name 'taken_by_a_test' is taken by the fusion .*First: set another layer_name"):
        register_fusion(Second)
    with pytest.raises(ValueError, match="two of these fusions have the layer name 'taken_by_a_test'"):
        use_fusions(First, Second)


class NoTensor(Fusion):
    def forward(self, x: Any) -> Any:
        return x


class OtherParameters(Fusion):
    def forward(self, x: Any) -> Any:
        return x.tanh().sin()

    @alternative
    def spelled(self, x: Any, y: Any) -> Any:
        return (x + y).sin()


class LacksOne(Fusion):
    def forward(self, x: Any, y: Any) -> Any:
        return (x + y).sin()

    @alternative
    def spelled(self, x: Any) -> Any:
        return x.tanh().sin()


class Misspelled(Fusion):
    norm = Layer("RMSNrom")

    def forward(self, x: Any) -> Any:
        return self.norm(x + 1)


@pytest.mark.parametrize(
    ("fusion", "problem"),
    [
        (NoTensor, "it has no operation"),
        (OtherParameters, r"OtherParameters.spelled has the parameters y, which forward\(x\) lacks"),
        (LacksOne, "LacksOne.spelled lacks y: give forward a default"),
        (Misspelled, r"Misspelled.norm is Layer\('RMSNrom'\), but no layer is annotated with that name .* Did you mean 'RMSNorm'\?"),
    ],
)
def test_what_is_no_fusion_is_an_error_at_registration(fusion: type[Fusion], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        register_fusion(fusion)


def test_only_fusions_can_be_registered() -> None:
    with pytest.raises(TypeError, match="a fusion is a class derived from fxkernels.Fusion, not <class"):
        register_fusion(Block)  # type: ignore[arg-type]


def test_a_kernel_with_other_parameters_is_a_miss_that_shows_both(tmp_path: Path) -> None:
    class WithFactor(Fusion):
        layer_name = "ScaleAndShift"

        def forward(self, x: Any, scale: Any, shift: Any, one: Any) -> Any:
            return F.layer_norm(x, ANY) * (one + scale) + shift

    model, args = Blocks().eval(), inputs()
    with use_fusions(WithFactor):
        backend = hubkernels(inner="eager", mapping={"ScaleAndShift": {"cpu": kernel(tmp_path, RIGHT)}})
    assert torch.equal(torch.compile(model, backend=backend)(*args), model(*args))
    assert_missed(backend.report, "blocks.*.ScaleAndShift", code="signature")
