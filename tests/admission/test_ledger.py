"""The ledger: what calls were given and have returned must stay as it was."""

from __future__ import annotations

import pytest
import torch

from fxkernels.admission.ledger import Ledger
from fxkernels.admission.running import Refused


def test_a_tensor_that_changes_after_it_was_kept_is_refused_by_its_name() -> None:
    ledger, output = Ledger(), torch.zeros(4)
    ledger.keep([torch.ones(2), output], "output {name} of an earlier one", [0, 1])
    ledger.check()
    output[2] = 1
    with pytest.raises(Refused, match="a later call changes output 1 of an earlier one"):
        ledger.check()


def test_what_was_forgotten_may_change() -> None:
    ledger, output = Ledger(), torch.zeros(4)
    ledger.keep([output], "output {name}", [0])
    ledger.forget()
    output[2] = 1
    ledger.check()


def test_a_ledger_of_a_single_run_keeps_nothing() -> None:
    ledger, output = Ledger(keeps=False), torch.zeros(4)
    ledger.keep([output], "output {name}", [0])
    output[2] = 1
    ledger.check()
