"""The probe: a kernel runs on random tensors, and everything that a layer may rely on is looked at.

Nothing here knows a kernel by name. Each check is about a property: values, what the outputs are, who owns which memory, what is left as it
was, gradients, and all that again on the next call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import torch

from .evidence import Evidence, Verdict
from .request import Inputs, Request, TensorSpec
from .rounds import Rounds, Shown
from .running import Refused, Unprobed
from .samples import LIMIT, bytes_of, elements_of
from .sizes import shrunk

MANY = 1 << 15
"""From this many elements on, most checks are made on fewer, and one run has the call's own sizes."""


_FEW_FOR_THREADS = 1 << 18
"""Up to this many elements threads only wait for each other, on a busy machine for long."""


def probe(request: Request) -> Verdict:
    """Return what running the kernel of a request has shown. It runs here, in this process."""
    with torch.random.fork_rng([]):
        torch.rand(1)  # a kernel that sets the seed everybody sets would else change nothing
        return _probe(request)


def _probe(request: Request) -> Verdict:
    evidence = Evidence()
    shown: Shown | None = None
    try:
        for specs in request.cases:
            if any(isinstance(spec, TensorSpec) and 0 in spec.sizes for spec in specs):
                evidence.note("inputs without elements were not probed")
            elif shown is None:
                shown = _own_sizes(request, specs, evidence)
            else:
                shown = _other_sizes(request, specs, evidence, shown)
    except Refused as error:
        return Verdict.refused(error.miss, evidence.as_dict())
    except Unprobed as error:
        return Verdict.unprobed(str(error), evidence.as_dict())
    except torch.OutOfMemoryError:
        return Verdict.unprobed("there is no memory for the probe", evidence.as_dict())
    if shown is None:
        return Verdict.unprobed("its inputs have no elements", evidence.as_dict())
    cloned, relaid = tuple(sorted(shown.cloned)), tuple(sorted(shown.relaid))
    return Verdict("admitted", cloned=cloned, detached=shown.detached, relaid=relaid, evidence=evidence.as_dict())


def _own_sizes(request: Request, specs: Inputs, evidence: Evidence) -> Shown:
    request, specs = _affordable(request, specs, evidence)
    fewer = shrunk(request.reference, specs, MANY) if elements_of(specs) > MANY else None
    first: Shown | None = None
    if fewer is not None:
        with contextlib.suppress(Refused, Unprobed):  # the call has not these sizes: only what happens at its own counts
            first = Rounds(replace(request, reference=fewer[0]), fewer[1], evidence, Shown()).all()
    if first is None:
        with _one_thread() if elements_of(specs) <= _FEW_FOR_THREADS else contextlib.nullcontext():
            first = Rounds(request, specs, evidence, Shown()).all()
    return Rounds(request, specs, evidence, first).one() if elements_of(specs) > MANY else first


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _other_sizes(request: Request, specs: Inputs, evidence: Evidence, before: Shown) -> Shown:
    """Compare once. Values of the dynamic sizes that the layer itself does not take are none."""
    try:
        return Rounds(request, specs, evidence, before).one() if bytes_of(specs) <= LIMIT else before
    except Unprobed as error:
        evidence.note(f"other sizes were not probed: {error}")
        return before


def _affordable(request: Request, specs: Inputs, evidence: Evidence) -> tuple[Request, Inputs]:
    if bytes_of(specs) <= LIMIT:
        return request, specs
    limit = LIMIT * elements_of(specs) // bytes_of(specs)
    smaller = shrunk(request.reference, specs, limit)
    if smaller is None or bytes_of(smaller[1]) > LIMIT:
        raise Unprobed(f"its inputs have {bytes_of(specs) >> 20} MB, and the layer takes no smaller ones")
    evidence.note(f"the call's {bytes_of(specs) >> 20} MB are too many to probe; it ran with {bytes_of(smaller[1]) >> 20} MB")
    return replace(request, reference=smaller[0]), smaller[1]
