"""Private torch APIs that are gone: the error says so in one sentence, instead of naming an attribute of a module inside torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from ...errors import FxKernelsError
from ...versions import TESTED

_HERE = Path(__file__).parent


@contextlib.contextmanager
def explains_missing_api() -> Iterator[None]:
    """Within, an AttributeError or ImportError of this package itself is an `FxKernelsError`. Those of others, such as kernels, are not.

    Raises:
        FxKernelsError: If a private torch API is gone.
    """
    try:
        yield
    except (AttributeError, ImportError) as error:
        if not is_missing_api(error):
            raise
        raise FxKernelsError(missing_api_message(error)) from error


def is_missing_api(error: BaseException) -> bool:
    """Whether an error is that of a file of this package, which asks torch for something that it does not have."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_here = trace is not None and Path(trace.tb_frame.f_code.co_filename).parent == _HERE
    return raised_here and isinstance(error, AttributeError | ImportError)


def missing_api_message(error: BaseException) -> str:
    """Return the sentence for a private API that is gone."""
    return (
        f"torch {torch.__version__} no longer has what fxkernels relies on: {error}\n"
        f"  fxkernels is tested with torch {TESTED['torch']}; install one of these, or a newer fxkernels."
    )
