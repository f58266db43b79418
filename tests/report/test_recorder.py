"""From what was decided in captured graphs to a report."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Iterator

import pytest
import torch
from graphs import GraphBuilder, calls_of, replaced
from kernel_repositories import repository
from layers import Stack
from torch import fx, nn

from fxkernels.annotate import Annotation
from fxkernels.backend import hubkernels
from fxkernels.decide.decider import KernelUse
from fxkernels.kernels.layer import KernelIdentity, KernelLayer
from fxkernels.passes.layer_call import LayerCall
from fxkernels.passes.miss import Miss
from fxkernels.passes.plan import Decision
from fxkernels.report.publish import last_report, publish
from fxkernels.report.recorder import Recorder
from fxkernels.report.report import Report

KERNEL = KernelUse(KernelLayer(nn.Module, KernelIdentity("acme/norms", None, "RMSNorm", None)), None, None)
MISSED = Decision("missed", (Miss("no_mapping", "nothing is mapped"),))


def graph(*paths: str) -> fx.GraphModule:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    for path in paths:
        with build.layer(path, x, name="RMSNorm", location="model.py:7") as layer:
            layer.returns(build(torch.sin, x))
        x = layer.output
    return build.module(x)


def decided(module: fx.GraphModule, *missed: str) -> Iterator[tuple[LayerCall, Decision]]:
    """Every call of the graph is rewritten but these."""
    for call in calls_of(module.graph):
        replacement = replaced(call, module).replacement
        yield call, MISSED if call.site.path in missed else Decision("rewritten", (), replacement, use=KERNEL)


def recorder(**annotated: bool) -> Recorder:
    """A recorder that knows of these annotated modules; the value says whether the forward is overridden."""
    return Recorder(lambda: {path: (Annotation("RMSNorm"), overridden) for path, overridden in annotated.items()})


def statuses(report: Report) -> dict[str, str]:
    return {f"{call.path}#{call.index}": call.status for call in report.calls}


def test_report_is_pending_before_the_first_capture() -> None:
    assert (recorder(norm=False).report.pending, recorder(norm=False).report.calls) == (True, ())


def test_captured_calls_are_in_the_report_with_what_became_of_them() -> None:
    found, module = recorder(), graph("first", "second")
    found.record("a", module, decided(module, "second"), None)
    first, second = found.report.calls
    assert (first.path, first.layer_name, first.location, first.status, first.kernel, first.miss) == (
        "first",
        "RMSNorm",
        "model.py:7",
        "rewritten",
        KERNEL.kernel.identity,
        None,
    )
    assert (second.status, second.kernel, str(second.miss)) == ("missed", None, "no_mapping: nothing is mapped")
    assert found.report.graphs == (module,)


def test_calls_of_one_path_are_listed_one_by_one() -> None:
    found, module = recorder(), graph("norm", "norm")
    found.record("a", module, decided(module), None)
    assert statuses(found.report) == {"norm#0": "rewritten", "norm#1": "rewritten"}


def test_call_in_several_graphs_has_a_decision_for_each_the_newest_last() -> None:
    found, one, two = recorder(), graph("norm"), graph("norm")
    found.record("a", one, decided(one), None)
    found.record("b", two, decided(two, "norm"), None)
    (call,) = found.report.calls
    assert [(decision.graph, decision.status) for decision in call.decisions] == [(0, "rewritten"), (1, "missed")]
    assert call.status == "missed"


def test_graph_handed_in_again_under_its_key_replaces_its_record() -> None:
    found, one, two = recorder(), graph("norm"), graph("norm")
    found.record("a", one, decided(one), None)
    found.record("a", two, decided(two, "norm"), None)
    (call,) = found.report.calls
    assert [decision.status for decision in call.decisions] == ["missed"]
    assert found.report.graphs == (two,)


def test_graphs_without_a_key_are_all_kept() -> None:
    found = recorder()
    for path in ("first", "second"):
        module = graph(path)
        found.record(None, module, decided(module), None)
    assert statuses(found.report) == {"first#0": "rewritten", "second#0": "rewritten"}


def test_earlier_reports_stay_as_they_were() -> None:
    found, module = recorder(), graph("norm")
    found.record("a", module, decided(module), None)
    before = found.report
    found.record("b", module, decided(module, "norm"), None)
    assert statuses(before) == {"norm#0": "rewritten"}


# --- not captured -----------------------------------------------------------------------------------------------------------------------


def missing(found: Recorder) -> str:
    return str(next(call for call in found.report.calls if call.path == "other").miss)


def test_annotated_module_that_no_graph_called_is_not_captured() -> None:
    found, module = recorder(norm=False, other=False), graph("norm")
    found.record("a", module, decided(module), None)
    assert statuses(found.report) == {"norm#0": "rewritten", "other#0": "not_captured"}
    assert missing(found) == "not_captured: no captured graph has called it"


def test_graph_break_is_named_as_the_reason() -> None:
    found, module = recorder(other=False), graph()
    found.record("a", module, (), "print() (model.py:3)")
    assert missing(found) == "not_captured: no captured graph has called it; a graph ended early: print() (model.py:3)"


def test_recompile_limit_is_named_as_the_reason() -> None:
    found, module = recorder(other=False), graph()
    found.record("a", module, (), "print() (model.py:3)")
    found.hit_recompile_limit("forward (model.py:1)")
    assert missing(found) == "not_captured: no captured graph has called it; Dynamo's recompile limit was reached in forward (model.py:1)"
    assert found.report.notes == ("Dynamo's recompile limit was reached in forward (model.py:1): new inputs run the original code there",)


def test_twin_whose_graph_may_serve_the_module_is_named() -> None:
    found = Recorder(lambda: dict.fromkeys(("layers.0.norm", "layers.1.norm"), (Annotation("RMSNorm"), False)))
    module = graph("layers.0.norm")
    found.record("a", module, decided(module), None)
    _, other = found.report.calls
    assert other.miss is not None
    assert other.miss.message.endswith("; the graph of layers.0.norm serves it too where Dynamo finds the two alike")


def test_module_that_overrides_the_annotated_forward_is_said_to_do_so() -> None:
    found, module = recorder(other=True), graph()
    found.record("a", module, (), None)
    assert missing(found) == "forward_overridden: its class overrides the annotated forward"


def test_module_is_captured_once_a_later_graph_calls_it() -> None:
    found, module = recorder(norm=False), graph()
    found.record("a", module, (), "a break")
    later = graph("norm")
    found.record("b", later, decided(later), None)
    assert statuses(found.report) == {"norm#0": "rewritten"}


# --- notes and listeners ----------------------------------------------------------------------------------------------------------------


def test_notes_stand_in_every_report_once() -> None:
    found, module = recorder(), graph("norm")
    found.note("captured by Dynamo")
    assert (found.report.notes, found.report.pending) == (("captured by Dynamo",), True)
    found.record("a", module, decided(module), None)
    found.note("captured by Dynamo")
    assert found.report.notes == ("captured by Dynamo",)


def test_report_of_another_capture_is_shown_until_there_is_one_of_our_own() -> None:
    found, module = recorder(), graph("norm")
    found.note("copied")
    found.adopt(Report(notes=("theirs",), capture="symbolic"))
    assert (found.report.capture, found.report.notes) == ("symbolic", ("copied", "theirs"))
    found.record("a", module, decided(module), None)
    assert (found.report.capture, found.report.notes) == ("dynamo", ("copied",))


def test_listeners_get_every_new_report() -> None:
    found, module, heard = recorder(), graph("norm"), []
    found.listeners.append(heard.append)
    found.record("a", module, decided(module), None)
    found.note("a note")
    assert [report.notes for report in heard] == [(), ("a note",)]
    assert heard[-1] is found.report


# --- the last report, and the log -------------------------------------------------------------------------------------------------------


def in_thread(function) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_last_report_is_that_of_the_last_capture() -> None:
    found, module = recorder(), graph("norm")
    found.record("a", module, decided(module), None)
    assert last_report() is found.report


def test_last_report_is_the_calling_threads_own() -> None:
    mine, seen = Report(notes=("mine",)), []
    publish(mine)
    in_thread(lambda: (seen.append(last_report()), publish(Report(notes=("theirs",)))))
    assert seen == [None]
    assert last_report() is mine


def test_last_report_keeps_no_model_alive() -> None:
    model = Stack()
    mapping = {"RMSNorm": {"cpu": repository("norms", "RMSNorm")}}
    with torch.no_grad():
        torch.compile(model, backend=hubkernels(inner="eager", mapping=mapping))(torch.randn(4, 8))
    reference = weakref.ref(model)
    del model
    torch.compiler.reset()
    gc.collect()
    assert reference() is None
    report = last_report()
    assert report is not None
    assert report.counts == {"rewritten": 3}


def logged(caplog: pytest.LogCaptureFixture, *graphs: tuple[fx.GraphModule, str]) -> list[tuple[str, str]]:
    found = recorder()
    with caplog.at_level(logging.INFO, "fxkernels"):
        for number, (module, missed) in enumerate(graphs):
            found.record(number, module, list(decided(module, missed)), None)
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_summary_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert logged(caplog, (graph("first", "second"), "second")) == [("INFO", "1 of 2 layer calls rewritten (no_mapping x1)")]


def test_summary_is_a_warning_where_nothing_was_rewritten(caplog: pytest.LogCaptureFixture) -> None:
    assert logged(caplog, (graph("norm"), "norm")) == [("WARNING", "0 of 1 layer calls rewritten (no_mapping x1)")]


def test_first_graph_without_a_layer_call_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert logged(caplog, (graph(), "")) == [("WARNING", "no annotated layer was called, nothing was rewritten")]


def test_further_graphs_without_a_layer_call_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert len(logged(caplog, (graph("norm"), ""), (graph(), ""))) == 1
