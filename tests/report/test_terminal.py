"""The golden files under `golden/` are what `print(report)` shows.

After a change that is meant, write them anew: ``FXKERNELS_WRITE_GOLDEN=1 python -m pytest tests/report``.
"""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import fx, nn

from fxkernels.kernels.layer import KernelIdentity
from fxkernels.passes.miss import Miss
from fxkernels.report.model import CallReport, GraphDecision
from fxkernels.report.report import Report
from fxkernels.report.terminal import print_report, render_text

GOLDEN = Path(__file__).parent / "golden"

NORM_KERNEL = KernelIdentity("acme/norms", "9a31f0c5" * 5, "RMSNorm", "torch-universal")
ROTARY_KERNEL = KernelIdentity("rotary", None, "rotary_pos_emb", None)
MLP_KERNEL = KernelIdentity("acme/mlp", "v1", "GatedMLP", "torch213-cxx11-cu130-x86_64-linux")
NO_BACKWARD = Miss("no_backward", "{kernel} has no backward and the layer is in training mode", {"kernel": NORM_KERNEL})
NO_BUILD = Miss(
    "no_variant", "acme/rope has no build for torch 2.13 on cpu (linux, x86_64)\n  it has: torch29-cxx11-cu128-x86_64-linux, torch-metal"
)
MUTATION = Miss("mutation", "{node} writes into {target}, which exists outside of the call", {"node": "copy_", "target": "cache"})


def call(path: str, layer_name: str, *decisions: GraphDecision, index: int = 0) -> CallReport:
    return CallReport(path, index, layer_name, layer_name, "model.py:1", decisions)


def rewritten(kernel: KernelIdentity, *misses: Miss, graph: int = 0) -> GraphDecision:
    return GraphDecision(graph, "rewritten", kernel, misses)


def missed(*misses: Miss, graph: int = 0) -> GraphDecision:
    return GraphDecision(graph, "missed", None, misses)


def covered_by(key: str) -> GraphDecision:
    return GraphDecision(0, "covered", None, (Miss("covered", "it happens inside {key}, which a kernel replaces", {"key": key}),))


def layer_calls(n: int) -> Iterator[CallReport]:
    path = f"model.language_model.layers.{n}"
    yield call(f"{path}.input_layernorm", "RMSNorm", rewritten(NORM_KERNEL, graph=0), missed(NO_BACKWARD, graph=1))
    yield call(f"{path}.self_attn.rotary_pos_emb", "rotary_pos_emb", missed(MUTATION) if n == 2 else rewritten(ROTARY_KERNEL, NO_BUILD))
    yield call(f"{path}.mlp", "GatedMLP", rewritten(MLP_KERNEL))
    yield call(f"{path}.mlp.act_fn", "SiLU", covered_by(f"{path}.mlp#0"))


@pytest.fixture
def report() -> Report:
    """One call of everything that a report can have, in a model of two towers."""
    exclusion = GraphDecision(0, "excluded", None, (Miss("excluded", "the path matches exclude="),))
    calls = [
        call("model.vision_tower.norm", "RMSNorm", missed(NO_BACKWARD, Miss("no_mode", "acme/other:RMSNorm is mapped for inference only"))),
        call("model.vision_tower.norm", "RMSNorm", rewritten(NORM_KERNEL), index=1),
        *(c for n in range(4) for c in layer_calls(n)),
        call("model.language_model.norm", "RMSNorm", exclusion),
        call(
            "model.projector.norm",
            "RMSNorm",
            GraphDecision(-1, "not_captured", None, (Miss("not_captured", "no captured graph has called it"),)),
        ),
        call("lm_head", "Linear", missed(Miss("no_mapping", "no kernel is mapped to layer name 'Linear'; mapped are: GatedMLP, RMSNorm"))),
    ]
    graph = fx.symbolic_trace(nn.Identity())
    notes = ("Dynamo's recompile limit was reached in forward (model.py:40): new inputs run the original code there",)
    return Report(tuple(calls), (graph, graph), notes=notes)


def check_golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("FXKERNELS_WRITE_GOLDEN"):
        path.write_text(text + "\n", encoding="utf-8")
    assert text + "\n" == path.read_text(encoding="utf-8")


def test_report_at_80_columns_is_the_golden_one(report: Report) -> None:
    check_golden("everything_80.txt", render_text(report, width=80))


def test_report_at_140_columns_is_the_golden_one(report: Report) -> None:
    check_golden("everything_140.txt", render_text(report, width=140))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_report_of_an_unmapped_llama_is_the_golden_one() -> None:
    transformers = pytest.importorskip("transformers")
    from fxkernels import hubkernels

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 99}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(num_hidden_layers=3, **sizes)).eval()
    backend = hubkernels(inner="eager", mapping={})
    with torch.no_grad():
        torch.compile(model, backend=backend)(input_ids=torch.arange(8)[None])
    check_golden("llama_unmapped_80.txt", render_text(backend.report, width=80))


def test_report_fits_the_width_wherever_a_path_does(report: Report) -> None:
    for width in (80, 100, 140):
        assert max(map(len, render_text(report, width).splitlines())) <= width


@pytest.mark.parametrize("width", [1, 40, 60, 80, 140, 500])
def test_no_word_is_lost_at_any_width(report: Report, width: int) -> None:
    def words(text: str) -> list[str]:
        return sorted(text.split())

    text = render_text(report, width)
    assert words(text) == words(render_text(report, 1000))
    for c in report.calls:
        for miss in () if c.status == "covered" else c.decisions[-1].misses:
            assert miss.message.split()[0] in text
    assert all(word in text.split() for word in report.notes[0].split())


def test_text_has_no_escape_sequences(report: Report) -> None:
    assert "\x1b" not in str(report)


def test_colours_change_no_letter(report: Report) -> None:
    out = io.StringIO()
    print_report(report, Console(file=out, force_terminal=True, color_system="standard", width=80, highlight=False))
    assert "\x1b[32m" in out.getvalue()
    assert re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()) == render_text(report, 80) + "\n"


def test_without_a_console_the_report_goes_to_standard_output(
    report: Report, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    print_report(report)
    assert capsys.readouterr().out == render_text(report, 90) + "\n"


def test_markup_in_a_message_is_shown_as_it_is() -> None:
    miss = Miss("load_error", "broken: [bold]not markup[/bold] {x}", {"x": "{'a': [1]}"})
    out = io.StringIO()
    print_report(Report((call("norm", "RMSNorm", missed(miss)),)), Console(file=out, width=200))
    assert "broken: [bold]not markup[/bold] {'a': [1]}" in out.getvalue()


def test_a_pending_report_says_what_to_do() -> None:
    text = render_text(Report(pending=True), 80)
    assert text.splitlines()[0] == "nothing captured yet: the first call captures the model"
    assert "Call the model once" in text


def test_a_report_without_calls_says_how_layers_are_annotated() -> None:
    text = render_text(Report(notes=("captured by Dynamo",)), 80)
    assert "no annotated layer was called" in text
    assert "use_kernel_forward_from_hub" in text
    assert text.endswith("note: captured by Dynamo")


def test_the_models_own_call_has_a_name() -> None:
    assert "(the model)  RMSNorm" in render_text(Report((call("", "RMSNorm", rewritten(NORM_KERNEL)),)), 80)


def test_a_branch_with_one_entry_needs_no_heading() -> None:
    text = render_text(Report((call("encoder.block.norm", "RMSNorm", rewritten(NORM_KERNEL)),)), 80)
    assert "  encoder.block.norm  RMSNorm  rewritten" in text


def test_a_covered_call_whose_cover_is_unknown_says_why_it_is_covered() -> None:
    text = render_text(Report((call("mlp.act", "SiLU", covered_by("mlp#0")),)), 80)
    assert "covered it happens inside mlp#0, which a kernel replaces" in " ".join(text.split())


def test_a_path_that_is_longer_than_a_line_stays_in_one_piece() -> None:
    path = "a_module_with_a_very_long_name." * 4 + "norm"
    lines = render_text(
        Report((call(path, "RMSNorm", rewritten(NORM_KERNEL)), call("b", "RMSNorm", rewritten(NORM_KERNEL)))), 80
    ).splitlines()
    assert lines[1].strip() == path
    assert lines[2].split()[:2] == ["RMSNorm", "rewritten"]


def test_an_unpickled_report_says_nothing_about_its_graphs(report: Report) -> None:
    text = render_text(pickle.loads(pickle.dumps(report)), 80)
    assert text == render_text(replace(report, graphs=()), 80)
    assert "Dynamo\n" not in text


def test_a_symbolic_capture_is_named(report: Report) -> None:
    assert "2 graphs captured symbolically" in render_text(replace(report, capture="symbolic"), 140)
