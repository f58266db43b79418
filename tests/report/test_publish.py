from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from report.reports import llama_like, small_report

from fxkernels.report.publish import reason_lines, trace
from fxkernels.report.report import Report

TESTS = Path(__file__).parent.parent

SCRIPT = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import torch
from kernel_repositories import repository
from fxkernels.backend import hubkernels
from fxkernels.demo_model import decoder

model, args = decoder(length=16, layers=2)
torch.compile(model, backend=hubkernels(inner="eager", mapping={{"RMSNorm": {{"cpu": repository("norms", "RMSNorm")}}}}))(*args)
"""


@dataclass(frozen=True)
class Run:
    """A process that compiled a model with TORCH_LOGS and TORCH_TRACE set."""

    stderr: str
    log: Path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("trace")
    environment = {**os.environ, "TORCH_LOGS": "+fxkernels", "TORCH_TRACE": str(directory)}
    result = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (log,) = directory.iterdir()
    return Run(result.stderr, log)


@pytest.mark.slow
def test_torch_logs_shows_the_summary_and_the_reasons(run: Run) -> None:
    lines = [line.split("] ", 1)[1].removeprefix("[0/0] ") for line in run.stderr.splitlines() if "fxkernels/report/" in line]
    assert "5 of 9 layer calls rewritten (no_mapping x4)" in lines
    assert "layers.{0..1}.input_layernorm x2 (RMSNorm): rewritten by norms:RMSNorm (torch-universal)" in lines
    unmapped = "missed (no_mapping: no kernel is mapped to layer name 'SiluAndMul'; mapped are: RMSNorm)"
    assert f"layers.{{0..1}}.mlp.activation x2 (SiluAndMul): {unmapped}" in lines


@pytest.mark.slow
def test_torch_trace_has_the_report_as_text_and_as_json(run: Run) -> None:
    text = run.log.read_text()
    assert '"name": "fxkernels_report", "encoding": "string"' in text
    _, _, rest = text.partition('"name": "fxkernels_report_data", "encoding": "json"')
    assert '"frame_id": 0' in rest.splitlines()[0]
    payload = "\n".join(line[1:] for line in rest.splitlines()[1:] if line.startswith("\t")).split("\n}\n")[0] + "\n}\n"
    assert Report.from_json(payload).summary == "5 of 9 layer calls rewritten (no_mapping x4)"


@pytest.mark.slow
def test_tlparse_shows_the_report(run: Run, tmp_path: Path) -> None:
    tlparse = Path(sys.executable).parent / "tlparse"
    if not tlparse.exists():
        pytest.skip("tlparse is not installed")
    out = tmp_path / "out"
    result = subprocess.run([tlparse, run.log, "-o", out, "--no-browser"], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (shown,) = out.glob("-_0_0_0/fxkernels_report_[0-9]*.txt")
    assert shown.read_text().startswith("5 of 9 layer calls rewritten")
    (data,) = out.glob("-_0_0_0/fxkernels_report_data_*.json")
    assert json.loads(data.read_text())["schema"] == "fxkernels.report/2"
    assert "fxkernels_report" in (out / "index.html").read_text()


def test_without_debug_level_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fxkernels"):
        trace(small_report())
    assert caplog.records == []


def test_at_debug_level_calls_that_are_decided_alike_share_a_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "fxkernels"):
        trace(llama_like(32))
    assert caplog.messages[0] == (
        "model.layers.{0..31}.input_layernorm x32 (RMSNorm): rewritten by acme/norms@9a31f0c:RMSNorm (torch-universal)"
    )
    assert caplog.messages[1].startswith("model.layers.{0..31}.input_layernorm x32: passed over: layout: x has stride 2")
    assert (
        caplog.messages[4]
        == "model.layers.{0..31}.mlp x32 (GatedMLP): rewritten by acme/mlp@v1:GatedMLP (torch213-cxx11-cu130-x86_64-linux)"
    )


def test_every_call_and_every_reason_is_told() -> None:
    report = small_report()
    text = "\n".join(reason_lines(report))
    for call in report.calls:
        for miss in call.decisions[-1].misses if call.status != "covered" else ():
            assert " ".join(miss.message.split()) in text
