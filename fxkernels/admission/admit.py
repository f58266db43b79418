"""The gate: a kernel has shown that it computes what the layer computes, or a miss says what it got wrong."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import Any, Literal

from ..passes.miss import Miss
from . import records
from .evidence import Verdict
from .key import key_of
from .probe import probe
from .request import Request
from .verify import verification
from .wire import CannotBeSent, to_bytes
from .worker import WORKER, CannotStart, Died

_log = logging.getLogger("fxkernels")

TIMEOUT_VARIABLE = "FXKERNELS_PROBE_TIMEOUT"
_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class Admitted:
    """A kernel that may be used.

    Args:
        how: ``"probed"``, ``"unprobed"`` (it could not be probed) or ``"unverified"`` (nobody asked for it).
        reason: Why it is unprobed, or which help a probed kernel needs, as a sentence; else empty.
        cloned: Positions of the inputs of which it has to get copies, since it overwrites them.
        detached: Whether no gradient flows through it: the reference's has to be recomputed.
        relaid: Positions of the outputs that it lays out in memory in another way than the layer: they have to be copied.
        evidence: What the probe has seen.
        key: The key of the record.
        ranges: For each dynamic size, the smallest and the largest that were probed.
    """

    how: Literal["probed", "unprobed", "unverified"]
    reason: str = ""
    cloned: frozenset[int] = frozenset()
    detached: bool = False
    relaid: frozenset[int] = frozenset()
    evidence: dict[str, Any] = field(default_factory=dict)
    key: str | None = None
    ranges: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        return f"{self.how}: {self.reason}" if self.reason else self.how


def admit(request: Request | str, *, verify: str | None = None, timeout: float | None = None) -> Admitted | Miss:
    """Return how a kernel may be used for a call, or the miss that says what it got wrong.

    What was found out before, in this process or another, is not found out again.

    Args:
        request: What is to be shown, or the phrase that says why nobody can ask for it (see `Request.of`).
        verify: ``"off"``, ``"probe"`` or ``"strict"``, else what ``FXKERNELS_VERIFY`` says, else ``"probe"``.
        timeout: Seconds that a probe may take, else what ``FXKERNELS_PROBE_TIMEOUT`` says, else 120.

    Raises:
        ValueError: If `verify` or one of the environment variables makes no sense.
    """
    mode = verification(verify)
    if mode == "off":
        return Admitted("unverified")
    strict = mode == "strict"
    if isinstance(request, str):
        return _judged(None, Verdict.unprobed(request), None, strict)
    key = key_of(request)
    verdict = _known(key, request)
    if verdict is None:
        from ..capture import _torch  # not at the top: the child process imports this package, and Dynamo takes longer than all the rest

        limit = _timeout(timeout)
        verdict = _torch.run_for_real(lambda: _probed(request, limit, strict), [request.device])
        _keep(key, request, verdict)
    return _judged(request, verdict, key, strict)


def known(request: Request | str, *, verify: str | None = None) -> Admitted | Miss | None:
    """Return what `admit` would answer without probing anything, or None if only a probe could tell.

    Args:
        request: As for `admit`.
        verify: As for `admit`.

    Raises:
        ValueError: As `admit`.
    """
    mode = verification(verify)
    if mode == "off":
        return Admitted("unverified")
    if isinstance(request, str):
        return _judged(None, Verdict.unprobed(request), None, mode == "strict")
    key = key_of(request)
    verdict = _known(key, request)
    return _judged(request, verdict, key, mode == "strict") if verdict is not None else None


def forget_verdicts() -> None:
    """Forget what this process has found out; records stay."""
    _VERDICTS.clear()


_VERDICTS: dict[tuple[str, str], Verdict] = {}
"""What this process knows, by records directory and key."""


def _known(key: str | None, request: Request) -> Verdict | None:
    if key is None:
        return None
    place = (str(records.records_directory()), key)
    if place not in _VERDICTS:
        record = records.read(key, records.places_for(request.kernel))
        if record is None:
            return None
        _VERDICTS[place] = record.verdict
    return _VERDICTS[place]


def _keep(key: str | None, request: Request, verdict: Verdict) -> None:
    if key is None or verdict.result == "unprobed":  # the next attempt may succeed
        return
    _VERDICTS[(str(records.records_directory()), key)] = verdict
    records.write(records.Record.of(key, request, verdict))


def _probed(request: Request, limit: float, strict: bool) -> Verdict:
    """Probe the kernel in the child; here only if it cannot exist there."""
    try:
        answer = WORKER.ask(to_bytes(request), limit)
    except CannotBeSent as error:
        return _probed_here(request, str(error), strict)
    except CannotStart as error:
        return _probed_here(request, f"no process can be started: {error}", strict)
    if isinstance(answer, Died):
        code = "timeout" if answer.timed_out else "crash"
        return Verdict.refused(Miss(code, "{how}", {"how": answer.how}), {"output": answer.output})
    if "cannot" in answer:
        return _probed_here(request, str(answer["cannot"]), strict)
    return Verdict.from_dict(answer["verdict"])


def _probed_here(request: Request, reason: str, strict: bool) -> Verdict:
    if strict:
        return Verdict.unprobed(f"it cannot be probed in a process of its own: {reason}")
    _log.debug("%s is probed in this process: %s", request.kernel.identity, reason)
    verdict = probe(request)
    verdict.evidence.setdefault("notes", []).append(f"probed in the user's process: {reason}")
    return verdict


def _judged(request: Request | None, verdict: Verdict, key: str | None, strict: bool) -> Admitted | Miss:
    if verdict.result == "admitted":
        ranges = request.ranges if request is not None else ()
        repairs = "; ".join(verdict.evidence.get("repairs", ()))
        seen = (frozenset(verdict.cloned), verdict.detached, frozenset(verdict.relaid), verdict.evidence)
        return Admitted("probed", repairs, *seen, key, ranges)
    if verdict.result == "unprobed" and not strict:
        return Admitted("unprobed", verdict.message)
    kernel = request.kernel.identity if request is not None else "the kernel"
    data = {"kernel": kernel, "message": verdict.message, "evidence": verdict.evidence, "key": key}
    return Miss(str(verdict.code), "{kernel}: {message}", data)


def _timeout(argument: float | None) -> float:
    if argument is not None:
        return argument
    said = os.environ.get(TIMEOUT_VARIABLE)
    if not said:
        return _TIMEOUT
    try:
        return float(said)
    except ValueError:
        raise ValueError(f"the environment variable {TIMEOUT_VARIABLE}={said!r} is no number of seconds") from None
