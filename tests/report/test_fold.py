from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxkernels.kernels.layer import KernelIdentity
from fxkernels.passes.miss import Miss
from fxkernels.report.fold import Fold, differing_decisions, fold_calls, folded_message, graphs_that_decided, number_set
from fxkernels.report.model import CallReport, GraphDecision

NORM_KERNEL = KernelIdentity("acme/norms", "9a31f0c5" * 5, "RMSNorm", "torch-universal")
REWRITTEN = GraphDecision(0, "rewritten", NORM_KERNEL)
MISSED = GraphDecision(0, "missed", None, (Miss("no_mapping", "no kernel is mapped to layer name 'RMSNorm'"),))


def call(path: str, *decisions: GraphDecision, index: int = 0, layer_name: str = "RMSNorm") -> CallReport:
    return CallReport(path, index, layer_name, layer_name, None, decisions or (REWRITTEN,))


def labels(*calls: CallReport) -> list[str]:
    return [fold.label for fold in fold_calls(calls)]


def test_calls_that_differ_in_the_number_of_their_layer_become_one_fold() -> None:
    (fold,) = fold_calls([call(f"layers.{n}.norm") for n in range(32)])
    assert fold.label == "layers.{0..31}.norm"
    assert len(fold.calls) == 32


def test_an_outlier_stays_visible_and_leaves_a_hole() -> None:
    calls = [call(f"layers.{n}.norm", MISSED if n == 2 else REWRITTEN) for n in range(5)]
    assert labels(*calls) == ["layers.{0..1,3..4}.norm", "layers.2.norm"]


def test_folds_stand_where_their_first_calls_stand() -> None:
    calls = [call(f"layers.{n}.{name}") for n in range(2) for name in ("a", "b")]
    assert labels(*calls, call("norm")) == ["layers.{0..1}.a", "layers.{0..1}.b", "norm"]


@pytest.mark.parametrize(
    "other",
    [
        call("layers.1.norm", layer_name="LayerNorm"),
        call("layers.1.norm", GraphDecision(0, "excluded")),
        call("layers.1.norm", GraphDecision(0, "rewritten", KernelIdentity("acme/other", None, "RMSNorm", None))),
        call("layers.1.norm", GraphDecision(0, "rewritten", NORM_KERNEL, MISSED.misses)),
        call("layers.1.norm", MISSED, REWRITTEN),
        call("blocks.1.norm"),
        call("layers.01.norm"),
    ],
    ids=["layer name", "status", "kernel", "misses", "earlier graphs", "path", "leading zero"],
)
def test_calls_that_differ_in_anything_but_a_number_are_not_folded(other: CallReport) -> None:
    assert len(fold_calls([call("layers.0.norm"), other])) == 2


def test_calls_of_different_graphs_fold_if_the_graphs_decided_alike() -> None:
    calls = [call(f"layers.{n}.norm", GraphDecision(n, "rewritten", NORM_KERNEL)) for n in range(3)]
    assert labels(*calls) == ["layers.{0..2}.norm"]


def test_calls_of_one_path_are_told_apart_by_their_index() -> None:
    calls = [call("norm", REWRITTEN, index=0), call("norm", MISSED, index=1), call("head")]
    assert labels(*calls) == ["norm#0", "norm#1", "head"]


def test_equal_calls_of_one_path_become_one_fold_over_their_indices() -> None:
    assert labels(*[call(f"layers.{n}.norm", index=i) for n in range(2) for i in range(12)]) == ["layers.{0..1}.norm#{0..11}"]


def test_numbers_of_two_lists_fold_into_products() -> None:
    calls = [call(f"layers.{n}.experts.{e}.act") for n in range(3) for e in range(4) if (n, e) != (1, 3)]
    assert labels(*calls) == ["layers.{0,2}.experts.{0..3}.act", "layers.1.experts.{0..2}.act"]


def test_covered_calls_are_folded_below_the_calls_that_cover_them() -> None:
    def covered(n: int) -> GraphDecision:
        return GraphDecision(
            0, "covered", None, (Miss("covered", "it happens inside {key}, which a kernel replaces", {"key": f"layers.{n}.mlp#0"}),)
        )

    calls = [c for n in range(3) for c in (call(f"layers.{n}.mlp"), call(f"layers.{n}.mlp.act", covered(n)))]
    (fold,) = fold_calls(calls)
    assert (fold.label, [inner.label for inner in fold.covered]) == ("layers.{0..2}.mlp", ["layers.{0..2}.mlp.act"])


def test_misses_that_name_other_nodes_of_equal_layers_fold_and_name_them_all() -> None:
    def random(node: str) -> GraphDecision:
        return GraphDecision(0, "missed", None, (Miss("random", "{node} draws random numbers", {"node": node}),))

    names = ["dropout", "dropout_1", "dropout_2"]
    (fold,) = fold_calls([call(f"layers.{n}.norm", random(name)) for n, name in enumerate(names)])
    assert folded_message([c.decisions[-1].misses[0] for c in fold.calls]) == "dropout, dropout_{1..2} draws random numbers"


def test_earlier_decisions_are_given_only_where_they_differ() -> None:
    again = call("norm", REWRITTEN, replace(MISSED, graph=1), replace(MISSED, graph=2), replace(REWRITTEN, graph=3))
    assert [(d.graph, d.status) for d in differing_decisions(again)] == [(1, "missed")]
    assert graphs_that_decided(fold_calls([again])[0], MISSED) == "{1..2}"


@pytest.mark.parametrize(("numbers", "text"), [([5], "5"), ([0, 1], "{0..1}"), ([7, 3, 1, 2, 2], "{1..3,7}"), ([0, 2, 4], "{0,2,4}")])
def test_sets_of_numbers_are_written_as_runs(numbers: list[int], text: str) -> None:
    assert number_set(numbers) == text


SEGMENTS = st.one_of(st.integers(0, 4).map(str), st.sampled_from(["norm", "mlp", "07", "a{b}", "x_1"]))
PATHS = st.lists(SEGMENTS, max_size=4).map(".".join)
KEYS = st.lists(st.tuples(PATHS, st.integers(0, 2)), unique=True, max_size=40)


@st.composite
def reports(draw: st.DrawFn) -> list[CallReport]:
    """Distinct calls, some of them covered by a rewritten one."""
    keys = draw(KEYS)
    calls: list[CallReport] = []
    for path, index in keys:
        decision = draw(st.sampled_from([REWRITTEN, MISSED, GraphDecision(0, "excluded"), None]))
        if decision is None:
            cover, cover_index = draw(st.sampled_from(keys))
            decision = GraphDecision(0, "covered", None, (Miss("covered", "inside {key}", {"key": f"{cover}#{cover_index}"}),))
        calls.append(call(path, decision, index=index))
    return calls


@given(reports())
def test_unfolding_gives_every_call_exactly_once_and_in_order(calls: list[CallReport]) -> None:
    position = {id(c): number for number, c in enumerate(calls)}
    folds = fold_calls(calls)
    everything = [c for fold in walk(folds) for c in fold.calls]
    assert sorted(position[id(c)] for c in everything) == list(range(len(calls)))
    for fold in walk(folds):
        places = [position[id(c)] for c in fold.calls]
        assert places == sorted(places)
    firsts = [position[id(fold.calls[0])] for fold in folds]
    assert firsts == sorted(firsts)


@given(reports())
def test_a_label_stands_for_exactly_the_paths_of_its_calls(calls: list[CallReport]) -> None:
    again = {c.path for c in calls if c.index > 0}
    for fold in walk(fold_calls(calls)):
        if "a{b}" not in fold.label:  # a module name with braces cannot be told from a set
            assert set(expanded(fold.label)) == {f"{c.path}#{c.index}" if c.path in again else c.path for c in fold.calls}


def walk(folds: tuple[Fold, ...]) -> Iterator[Fold]:
    for fold in folds:
        yield fold
        yield from walk(fold.covered)


def expanded(label: str) -> Iterator[str]:
    """What a shell would make of the braces."""
    pieces = re.split(r"\{([^}]*)\}", label)
    choices = [numbers(piece) if position % 2 else [piece] for position, piece in enumerate(pieces)]
    return ("".join(choice) for choice in itertools.product(*choices))


def numbers(text: str) -> list[str]:
    runs = [run.split("..") for run in text.split(",")]
    return [str(number) for run in runs for number in range(int(run[0]), int(run[-1]) + 1)]
