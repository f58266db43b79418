"""What a page shows: the tree of modules and folds."""

from __future__ import annotations

from report.reports import llama_like, small_report

from fxkernels.report.html.view import Entry, Module, entries_of, page_tree
from fxkernels.report.model import CallReport, GraphDecision, ReportData


def call(path: str, index: int = 0, status: str = "rewritten") -> CallReport:
    return CallReport(path, index, "RMSNorm", "RMSNorm", None, (GraphDecision(0, status),))  # type: ignore[arg-type]


def written(parts: tuple[Module | Entry, ...]) -> list[object]:
    return [{part.label: written(part.parts)} if isinstance(part, Module) else part.label for part in parts]


def tree(*calls: CallReport) -> list[object]:
    return written(page_tree(ReportData(calls)))


def test_module_with_several_folds_is_shown_and_one_with_a_single_fold_is_not() -> None:
    assert tree(call("model.a.norm"), call("model.b.norm"), call("head.norm")) == [{"model": ["a.norm", "b.norm"]}, "head.norm"]


def test_numbers_stay_with_the_list_that_they_count() -> None:
    calls = [call(f"layers.{n}.{name}") for n in range(3) for name in ("norm", "mlp")]
    assert tree(*calls) == [{"layers.{0..2}": ["norm", "mlp"]}]


def test_outlier_stands_beside_the_layers_that_it_left() -> None:
    calls = [call(f"layers.{n}.norm", status="missed" if n == 1 else "rewritten") for n in range(3)]
    assert tree(*calls, *(call(f"layers.{n}.mlp") for n in range(3))) == ["layers.{0,2}.norm", "layers.1.norm", "layers.{0..2}.mlp"]


def test_calls_of_the_model_itself_and_repeated_calls_have_names() -> None:
    assert tree(call(""), call("norm", 0), call("norm", 1, "missed")) == ["(the model)", "norm#0", "norm#1"]


def test_call_of_a_module_stands_beside_the_calls_in_it() -> None:
    assert tree(call("block"), call("block.norm"), call("block.act")) == ["block", {"block": ["norm", "act"]}]


def test_counts_of_a_module_include_the_calls_inside_rewritten_ones() -> None:
    (model,) = page_tree(llama_like(4))
    assert isinstance(model, Module)
    assert model.counts == {"rewritten": 13, "covered": 4}


def test_every_call_is_in_the_tree_once() -> None:
    report = small_report()
    found = [call.key for entry in entries_of(page_tree(report)) for call in entry.calls]
    assert sorted(found) == sorted(call.key for call in report.calls)
