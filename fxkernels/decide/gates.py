"""The gates, in the order in which they are asked. Each is declared in the room that knows the answer."""

from __future__ import annotations

from ..admission.verdict import ADMISSION
from ..constraints.gate import CONSTRAINTS
from ..kernels.contract import CONTRACT
from ..kernels.loader import REPOSITORY
from ..kernels.lowering.choose import LOWERING
from ..mapping import MAPPING
from ..passes.gate import Gate, Stage
from ..passes.plan import COVERED
from ..passes.region import REGION
from ..selection.results import SELECTION
from . import call_gates, candidate_gates
from .call_gates import ANNOTATION, DEVICE, FILTER
from .candidate_gates import INPUTS, MODE

ASKED_OF_A_CALL: tuple[tuple[Gate, call_gates.Question], ...] = (
    (FILTER, call_gates.is_wanted),
    (ANNOTATION, call_gates.is_the_annotated_one),
    (REGION, call_gates.may_be_replaced),
)

ASKED_OF_A_FORM: tuple[tuple[Gate, call_gates.Question], ...] = (
    (DEVICE, call_gates.is_on_a_device),
    (MAPPING, call_gates.is_mapped),
)

ASKED_OF_A_CANDIDATE: tuple[tuple[Gate, candidate_gates.Question], ...] = (
    (REPOSITORY, candidate_gates.can_be_loaded),
    (CONTRACT, candidate_gates.keeps_the_contract),
    (INPUTS, candidate_gates.takes_the_inputs),
    (MODE, candidate_gates.supports_the_mode),
    (CONSTRAINTS, candidate_gates.meets_constraints),
    (ADMISSION, candidate_gates.is_admitted),
    (LOWERING, candidate_gates.can_enter_the_graph),
)

GATES: tuple[Gate, ...] = (*[gate for gate, _ in (*ASKED_OF_A_CALL, *ASKED_OF_A_FORM, *ASKED_OF_A_CANDIDATE)], SELECTION)
"""All gates. The last one is asked of the candidates that have passed the others, together."""

NOT_CAPTURED = "not_captured"
"""The code of a layer that no captured graph has called."""

CODES: tuple[str, ...] = (*dict.fromkeys([code for gate in GATES for code in gate.codes]), COVERED, NOT_CAPTURED)
"""Every reason for which a call can keep its original layer. Public: reports and CI checks store them, so none is ever renamed."""


def names_of(*stages: Stage) -> tuple[str, ...]:
    """Return the names of the gates of some stages, in order."""
    return tuple([gate.name for gate in GATES if gate.stage in stages])
