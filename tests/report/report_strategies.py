"""Hypothesis strategies for reports: every value that the model allows, also those that no capture makes."""

from __future__ import annotations

from typing import Any, get_args

from hypothesis import strategies as st

from fxkernels.decide.gates import CODES, names_of
from fxkernels.kernels.describe import Operation
from fxkernels.kernels.layer import KernelIdentity
from fxkernels.kernels.lowering.lowering import Lowering
from fxkernels.kernels.lowering.repairs import Repairs
from fxkernels.passes.gate import CandidateResult, GateResult
from fxkernels.passes.miss import Miss
from fxkernels.passes.plan import Status
from fxkernels.report.model import CallReport, Evidence, GraphDecision
from fxkernels.report.report import Report
from fxkernels.target import Target

CALL_GATES = names_of("call", "form")
CANDIDATE_GATES = names_of("candidate", "selection")

TEXT = st.text(max_size=8)
NAMES = st.sampled_from(["node", "target", "user", "key", "kernel", "got"])
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT)
KERNELS = st.builds(KernelIdentity, TEXT, st.none() | TEXT, TEXT, st.none() | TEXT, st.none() | TEXT)


def tuples(strategy: st.SearchStrategy[Any], longest: int = 3) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=longest).map(tuple)


@st.composite
def misses(draw: st.DrawFn) -> Miss:
    """A miss whose template names some of its values, and has braces of its own."""
    data = draw(st.dictionaries(NAMES, VALUES, max_size=3))
    words = [*(f"{{{name}{draw(st.sampled_from(['', '!r']))}}}" for name in data if draw(st.booleans())), "{{", "}}", "word"]
    return Miss(draw(st.sampled_from(CODES)), " ".join(draw(st.permutations(words))), data)


@st.composite
def gates(draw: st.DrawFn) -> GateResult:
    outcome = draw(st.sampled_from(["passed", "failed", "unknown"]))
    return GateResult(
        draw(st.sampled_from(CALL_GATES + CANDIDATE_GATES)), outcome, draw(misses()) if outcome == "failed" else None, draw(TEXT)
    )


ORDERS = st.permutations(range(3)).map(tuple)
INPUT_NAMES = st.just(("hidden_states", "weight"))
REPAIRS = st.builds(Repairs, st.sampled_from([(), (0,), (0, 1)]), tuples(st.tuples(st.integers(0, 3), ORDERS)), st.none() | TEXT)
OPERATIONS = st.builds(Operation, TEXT, TEXT, TEXT, st.none() | TEXT)
DECISIONS = st.builds(
    GraphDecision,
    st.integers(-1, 3),
    st.sampled_from(get_args(Status)),
    st.none() | KERNELS,
    tuples(misses()),
    st.none()
    | st.builds(Lowering, st.sampled_from(["traced", "triton", "opaque"]), TEXT, REPAIRS, INPUT_NAMES, st.none() | TEXT, st.none() | TEXT),
    training=st.none() | st.booleans(),
    gates=tuples(gates()),
    candidates=tuples(st.builds(CandidateResult, TEXT, tuples(gates()), st.none() | KERNELS)),
    evidence=st.none() | st.builds(Evidence, TEXT, TEXT, st.none() | TEXT),
    inputs=tuples(TEXT),
    before=tuples(OPERATIONS),
    after=tuples(OPERATIONS),
    node=TEXT,
    reads=tuples(st.sampled_from(["a.0#0", "a.1#0", "gone#3"])),
)
TARGETS = st.builds(
    Target,
    st.sampled_from(["cpu", "cuda", "rocm", "mps", "meta"]),
    st.none() | st.integers(0, 120),
    st.sampled_from(["2.11", "2.13"]),
    st.none() | st.sampled_from(["cu130", "rocm71"]),
    TEXT,
    TEXT,
)


@st.composite
def reports(draw: st.DrawFn) -> Report:
    keys = draw(st.lists(st.tuples(st.sampled_from(["", "a.0", "a.1", "b"]), st.integers(0, 2)), unique=True, max_size=4))
    decided = st.lists(DECISIONS, min_size=1, max_size=2).map(tuple)
    said = st.tuples(TEXT, TEXT, st.none() | TEXT, decided, TEXT)
    calls = tuple(CallReport(path, index, *draw(said)) for path, index in keys)
    versions = draw(tuples(st.tuples(TEXT, TEXT)))
    capture = draw(st.sampled_from(["dynamo", "symbolic"]))
    return Report(calls, (), draw(st.booleans()), draw(tuples(TEXT)), capture, draw(TEXT), draw(tuples(TARGETS)), versions)
