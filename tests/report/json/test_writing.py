from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from kernel_repositories import repository
from report.report_strategies import reports
from report.reports import NORMS, large_report, llama_like, missed_in_training, small_report
from torch import fx, nn

from fxkernels.demo_model import decoder
from fxkernels.kernels.layer import KernelIdentity
from fxkernels.passes.miss import Miss
from fxkernels.report.json import to_json
from fxkernels.report.model import CallReport, GraphDecision
from fxkernels.report.report import Report
from fxkernels.report.terminal import render_text


def report_of(*misses: Miss) -> Report:
    return Report((CallReport("norm", 0, "RMSNorm", "RMSNorm", None, (GraphDecision(0, "missed", None, misses),)),))


def there_and_back(miss: Miss) -> Miss:
    return Report.from_json(to_json(report_of(miss))).calls[0].decisions[0].misses[0]


def test_a_report_comes_back_equal() -> None:
    report = llama_like(32, missed_in=())
    assert Report.from_json(to_json(report)) == report


@given(reports())
@settings(max_examples=60, deadline=None)
def test_any_report_comes_back_equal_and_as_the_same_text(report: Report) -> None:
    text = to_json(report)
    assert Report.from_json(text) == report
    assert to_json(Report.from_json(text)) == text


def test_a_report_that_came_back_reads_like_the_one_that_was_written() -> None:
    report = small_report()
    assert render_text(Report.from_json(to_json(report)), 80) == render_text(report, 80)


def test_the_report_of_a_capture_comes_back_with_every_message() -> None:
    from fxkernels import kernelize

    model, args = decoder(length=16, layers=2)
    kernelized = kernelize(model, mapping={"RMSNorm": {"cpu": repository("norms", "RMSNorm")}})
    kernelized(*args)
    report = kernelized.report
    back = Report.from_json(to_json(report))
    assert render_text(back, 80) == render_text(replace(report, graphs=()), 80)
    assert to_json(back) == to_json(report)


def test_graphs_are_left_out() -> None:
    graph = fx.symbolic_trace(nn.Identity())
    assert Report.from_json(to_json(Report(graphs=(graph,)))) == Report()


def test_equal_reports_have_the_same_bytes_whatever_objects_they_share() -> None:
    assert to_json(llama_like(2)) == to_json(Report.from_json(to_json(llama_like(2)))) == to_json(llama_like(2))


def test_the_text_is_ascii_with_one_row_on_a_line_and_sorted_keys() -> None:
    report = replace(small_report(), notes=("größer",))
    text = to_json(report)
    assert text.isascii()
    content = json.loads(text)
    assert list(content) == sorted(content)
    assert list(content["calls"][0]) == sorted(content["calls"][0])
    lines = text.splitlines()
    assert sum(line.startswith('{"decisions":') for line in lines) == len(report.calls)


def test_what_calls_share_is_written_once() -> None:
    assert len(json.loads(to_json(llama_like(32)))["forms"]) == 3
    assert len(json.loads(to_json(llama_like(64)))["forms"]) == 3


def test_ten_thousand_calls_leave_room_in_a_page_of_two_megabytes() -> None:
    assert len(to_json(large_report(10_000))) < 1_250_000


# --- misses -----------------------------------------------------------------------------------------------------------------------------


def test_values_that_json_does_not_have_are_text_then() -> None:
    (miss,) = missed_in_training(0).misses
    assert miss.data == {"kernel": NORMS}
    assert there_and_back(miss) == replace(miss, data={"kernel": "acme/norms@9a31f0c:RMSNorm"})


@pytest.mark.parametrize(
    ("template", "data"),
    [
        ("{error:.2e} is more than {bound!r}", {"error": 0.5, "bound": 0.25}),
        ("{stride[0]} of {stride}", {"stride": (2, 1)}),
        ("{kernel.layer} by {kernel!r}", {"kernel": KernelIdentity("a", None, "{b}", None)}),
        ("{name!r:>12}|{name!s}|{name!a}", {"name": "ä{}"}),
        ("{node:>5} and {node}", {"node": "mul"}),
        ("{{node}} and {node!r}", {"node": "mul"}),
        ("{size}", {"size": torch.Size([2, 3])}),
        ("{error} {bound:f}", {"error": float("nan"), "bound": float("inf")}),
        ("{yes} {one} {none}", {"yes": True, "one": 1, "none": None}),
    ],
)
def test_the_message_stays_however_the_template_formats_it(template: str, data: dict[str, Any]) -> None:
    miss = Miss("crash", template, data)
    assert there_and_back(miss).message == miss.message


def test_two_misses_that_name_different_nodes_keep_their_own() -> None:
    one, other = Miss("random", "{node} is random", {"node": "a"}), Miss("state", "it reads {node}", {"node": "b"})
    assert Report.from_json(to_json(report_of(one, other))).calls[0].decisions[0].misses == (one, other)


def test_calls_whose_misses_differ_in_the_names_of_nodes_share_a_form() -> None:
    decisions = [GraphDecision(0, "missed", None, (Miss("random", "{node} is random", {"node": f"dropout_{n}"}),)) for n in range(9)]
    report = Report(tuple(CallReport(f"layers.{n}", 0, "MLP", "MLP", None, (decision,)) for n, decision in enumerate(decisions)))
    assert len(json.loads(to_json(report))["forms"]) == 1
    assert Report.from_json(to_json(report)) == report
