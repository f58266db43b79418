"""The gates in their order, and the freeze on their public codes."""

from __future__ import annotations

import torch
from kernel_repositories import repository
from layers import Stack

from fxkernels import hubkernels
from fxkernels.decide.gates import ASKED_OF_A_CALL, ASKED_OF_A_CANDIDATE, ASKED_OF_A_FORM, CODES, GATES, names_of

# Reports and CI checks store these: none is ever renamed or removed.
PUBLISHED = """
    forward_overridden excluded condition_false not_captured graph_break covered mutation random escape state opaque_argument
    no_mapping no_device capability no_mode untrusted no_variant offline digest load_error
    signature own_state missing_attribute no_backward not_compilable dtype rank layout shape dynamic_shape tensor_subclass
    output_metadata conflict numerics gradient mutates_input crash timeout unprobed not_profitable
""".split()


def test_published_codes_are_never_renamed_or_removed() -> None:
    assert set(PUBLISHED) <= set(CODES)


def test_codes_are_unique() -> None:
    assert len(set(CODES)) == len(CODES)


def test_a_gate_is_asked_at_its_stage() -> None:
    asked = {"call": ASKED_OF_A_CALL, "form": ASKED_OF_A_FORM, "candidate": ASKED_OF_A_CANDIDATE}
    for stage, questions in asked.items():
        assert {gate.stage for gate, _ in questions} == {stage}


def test_names_are_unique_and_in_order() -> None:
    assert names_of("call", "form") == ("filter", "annotation", "region", "device", "mapping")
    candidate = ("repository", "contract", "inputs", "mode", "constraints", "admission", "lowering", "selection")
    assert names_of("candidate", "selection") == candidate
    assert len({gate.name for gate in GATES}) == len(GATES)


def test_gates_answer_under_their_own_names_and_in_their_order() -> None:
    backend = hubkernels(inner="eager", mapping={"RMSNorm": {"cpu": repository("norms", "RMSNorm")}}, exclude="*1*", verify="off")
    torch.compiler.reset()
    torch.compile(Stack().eval(), backend=backend)(torch.randn(3, 8))
    decisions = [decision for call in backend.report.calls for decision in call.decisions]
    assert {decision.status for decision in decisions} == {"rewritten", "excluded"}
    for decision in decisions:
        answers = [(decision.gates, names_of("call", "form")), *[(each.gates, names_of("candidate")) for each in decision.candidates]]
        for gates, names in answers:
            assert [gate.name for gate in gates] == [*names[: len(gates)]]
