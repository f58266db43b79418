"""The probe: a kernel runs on random tensors, and everything that a layer may rely on is looked at.

Nothing here knows a kernel by name. Each check is about a property: values, what the outputs are, who owns which memory, what is left as it
was, gradients, and all that again on the next call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import torch

from ..kernels.samples import Inputs, TensorSpec
from .checks import Checks, Findings
from .probe_case import ProbeCase, bytes_of, elements_of, shrunk
from .runner import Refused, Unprobed
from .verdict import Evidence, Verdict

LIMIT = 256 << 20
"""How many bytes the tensors of a probe may have."""

MANY = 1 << 15
"""From this many elements on, most checks are made on fewer, and one run has the call's own sizes."""


_FEW_FOR_THREADS = 1 << 18
"""Up to this many elements threads only wait for each other, on a busy machine for long."""


def probe(case: ProbeCase) -> Verdict:
    """Return what running the kernel of a case has found. It runs here, in this process."""
    with torch.random.fork_rng([]):
        torch.rand(1)  # else a kernel that sets the usual seed would change nothing
        return _probe(case)


def _probe(case: ProbeCase) -> Verdict:
    evidence = Evidence()
    found: Findings | None = None
    try:
        for specs in case.inputs:
            if any(isinstance(spec, TensorSpec) and 0 in spec.sizes for spec in specs):
                evidence.note("inputs without elements were not probed")
            elif found is None:
                found = _own_sizes(case, specs, evidence)
            else:
                found = _other_sizes(case, specs, evidence, found)
    except Refused as error:
        return Verdict.refused(error.miss, evidence.as_dict())
    except Unprobed as error:
        return Verdict.unprobed(str(error), evidence.as_dict())
    except torch.OutOfMemoryError:
        return Verdict.unprobed("there is no memory for the probe", evidence.as_dict())
    if found is None:
        return Verdict.unprobed("its inputs have no elements", evidence.as_dict())
    return Verdict("admitted", repairs=found.repairs, evidence=evidence.as_dict())


def _own_sizes(case: ProbeCase, specs: Inputs, evidence: Evidence) -> Findings:
    case, specs = _affordable(case, specs, evidence)
    fewer = shrunk(case.reference, specs, MANY) if elements_of(specs) > MANY else None
    first: Findings | None = None
    if fewer is not None:
        with contextlib.suppress(Refused, Unprobed):  # the call has not these sizes: only what happens at its own counts
            first = Checks(replace(case, reference=fewer[0]), fewer[1], evidence, Findings()).all()
    if first is None:
        with _one_thread() if elements_of(specs) <= _FEW_FOR_THREADS else contextlib.nullcontext():
            first = Checks(case, specs, evidence, Findings()).all()
    return Checks(case, specs, evidence, first).one() if elements_of(specs) > MANY else first


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _other_sizes(case: ProbeCase, specs: Inputs, evidence: Evidence, before: Findings) -> Findings:
    """Compare once. Values of the dynamic sizes that the layer itself does not take are none."""
    try:
        return Checks(case, specs, evidence, before).one() if bytes_of(specs) <= LIMIT else before
    except Unprobed as error:
        evidence.note(f"other sizes were not probed: {error}")
        return before


def _affordable(case: ProbeCase, specs: Inputs, evidence: Evidence) -> tuple[ProbeCase, Inputs]:
    if bytes_of(specs) <= LIMIT:
        return case, specs
    limit = LIMIT * elements_of(specs) // bytes_of(specs)
    smaller = shrunk(case.reference, specs, limit)
    if smaller is None or bytes_of(smaller[1]) > LIMIT:
        raise Unprobed(f"its inputs have {bytes_of(specs) >> 20} MB, and the layer takes no smaller ones")
    evidence.note(f"the call's {bytes_of(specs) >> 20} MB are too many to probe; it ran with {bytes_of(smaller[1]) >> 20} MB")
    return replace(case, reference=smaller[0]), smaller[1]
