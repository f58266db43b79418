"""What tests of errors share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fxkernels.errors import RepositoryError


def refusal(action: Callable[[], object], code: str = "load_error") -> str:
    """Return the message of the RepositoryError that an action raises, after a look at its code."""
    with pytest.raises(RepositoryError) as caught:
        action()
    assert caught.value.code == code
    return str(caught.value)
