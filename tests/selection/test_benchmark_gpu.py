"""Measured selection on a GPU: the default with Inductor, inside CUDA graphs, and with built-in kernels. Run with `-m gpu`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from layers import Norm
from torch import nn

from fxkernels import Mode, hubkernels, tuning, use_kernel_forward_from_hub
from fxkernels.builtin import builtin_mapping, builtin_repository
from fxkernels.report.report import Report

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning"),  # torch's own warm-up of its graph pool does that
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),  # Inductor's advice, not about us
]


@use_kernel_forward_from_hub("causal_conv1d_fn")
def causal_convolution(hidden_states, weight, bias=None, activation=None, **kwargs):
    """A causal convolution by channel, as models have it where no kernel is installed."""
    length, width = hidden_states.shape[-1], weight.shape[-1]
    y = F.conv1d(hidden_states, weight[:, None], bias, padding=width - 1, groups=hidden_states.shape[1])[..., :length]
    return F.silu(y) if activation == "silu" else y


class Mixer(nn.Module):
    """A convolution, for which a kernel wins by far, and a norm of one row, for which none does."""

    def __init__(self, channels: int = 2048) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, 4) / 2)
        self.norm = Norm(channels)
        self.linear = nn.Linear(channels, channels, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = causal_convolution(x.transpose(1, 2), self.weight, None, activation="silu").transpose(1, 2)
        return x + self.linear(self.norm(mixed))


@pytest.fixture(autouse=True)
def own_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FXKERNELS_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    torch.compiler.reset()


def mapping() -> dict[str, object]:
    return {name: {"cuda": builtin_repository(name)} for name in ("causal_conv1d_fn", "RMSNorm")}


def outcome(report: Report) -> dict[str, str]:
    return {call.layer_name: call.status if call.miss is None else call.miss.code for call in report.calls}


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_by_default_a_kernel_that_wins_is_taken_and_the_evidence_is_in_the_report(mode: str | None) -> None:
    model, x = Mixer().to("cuda", torch.bfloat16).eval(), torch.randn(1, 4096, 2048, device="cuda", dtype=torch.bfloat16)
    backend = hubkernels(mapping=mapping(), inner_mode=mode)
    with torch.no_grad():
        run = torch.compile(model, backend=backend, fullgraph=True)
        for _ in range(3):
            torch.testing.assert_close(run(x), model(x), rtol=0.03, atol=0.03)
    assert outcome(backend.report)["causal_conv1d_fn"] == "rewritten", str(backend.report)
    (call,) = [call for call in backend.report.calls if call.layer_name == "causal_conv1d_fn"]
    note = call.decisions[-1].candidates[-1].gates[-1].note
    assert torch.cuda.get_device_name() in note


def test_forward_and_backward_are_timed_in_training() -> None:
    model = Mixer().to("cuda", torch.bfloat16)
    x = torch.randn(1, 4096, 2048, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    backend = hubkernels(mapping=mapping())
    torch.compile(model, backend=backend, fullgraph=True)(x).sum().backward()
    assert outcome(backend.report)["causal_conv1d_fn"] == "rewritten", str(backend.report)
    assert x.grad is not None


class Residual(nn.Module):
    """A norm after a residual addition, both of which go on."""

    def __init__(self, width: int = 2048) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(width, width, bias=False), Norm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stream = x + self.linear(x)
        return stream + self.linear(self.norm(stream))


def test_a_backward_with_a_residual_is_timed_in_a_cuda_graph(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fxkernels")
    model = Residual().to("cuda", torch.bfloat16)
    x = torch.randn(1024, 2048, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    torch.compile(model, backend=hubkernels(mapping=mapping()), fullgraph=True)(x).sum().backward()
    told = [record.getMessage() for record in caplog.records if record.name.startswith("fxkernels")]
    assert any(text.startswith("timed at norm, forward and backward") for text in told), told
    assert not any(text.startswith("timed without CUDA graphs") for text in told), told


def test_a_kernel_without_a_chance_leaves_the_call_to_inductor() -> None:
    class Wasteful(nn.Module):
        can_torch_compile = True
        weight: torch.Tensor
        variance_epsilon: float

        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            wide = hidden_states
            for _ in range(4):
                wide = wide @ torch.eye(wide.shape[-1], device=wide.device)  # nobody's compiler knows that it is the same again
            wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
            return self.weight * wide

    class Repository:
        def load(self) -> type[nn.Module]:
            return Wasteful

    backend = hubkernels(
        mapping={"RMSNorm": {"cuda": {Mode.TRAINING | Mode.TORCH_COMPILE: Repository(), Mode.FALLBACK: builtin_repository("RMSNorm")}}}
    )
    model, x = Norm(2048).cuda().eval(), torch.randn(64, 2048, device="cuda")
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend=backend)(x), model(x), rtol=1e-4, atol=1e-4)
    (call,) = backend.report.calls
    assert call.kernel is None or call.kernel.layer == "RMSNorm"
    misses = [str(candidate.miss) for candidate in call.decisions[-1].candidates]
    assert any("Wasteful takes" in miss for miss in misses), misses


def test_a_model_is_tuned_end_to_end_and_the_plan_is_carried_out(tmp_path: Path) -> None:
    model, x = Mixer().to("cuda", torch.bfloat16).eval(), torch.randn(1, 4096, 2048, device="cuda", dtype=torch.bfloat16)
    plan = tuning.tune(model, (x,), mapping=mapping(), inner_mode="reduce-overhead")
    assert plan.milliseconds["plan"] < plan.milliseconds["compiler"]
    plan.write(tmp_path / "plan.json")
    torch.compiler.reset()
    backend = hubkernels(mapping=mapping(), inner_mode="reduce-overhead", plan=tmp_path / "plan.json")
    with torch.no_grad():
        torch.compile(model, backend=backend)(x)
    assert backend.report.notes == ()
    assert outcome(backend.report)["causal_conv1d_fn"] == "rewritten"


def test_measuring_beside_other_work_on_the_device_leaves_it_alone() -> None:
    model, x = Mixer().to("cuda", torch.bfloat16).eval(), torch.randn(1, 512, 2048, device="cuda", dtype=torch.bfloat16)
    stream, large = torch.cuda.Stream(), torch.randn(4096, 4096, device="cuda")
    with torch.cuda.stream(stream):
        expected = large @ large
        with torch.no_grad():
            torch.compile(model, backend=hubkernels(mapping=builtin_mapping()))(x)
        again = large @ large
    torch.cuda.synchronize()
    torch.testing.assert_close(again, expected)
