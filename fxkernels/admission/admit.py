"""The gate: a kernel has shown that it computes what the layer computes, or a miss says what it got wrong."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ..kernels.lowering.repairs import Repairs
from ..passes.miss import Miss
from . import records
from .probe import probe
from .probe_case import ProbeCase
from .verdict import Verdict
from .wire import CannotBeSent, to_bytes
from .worker import WORKER, CannotStart, Died

_log = logging.getLogger("fxkernels")

Verify = Literal["off", "probe", "strict"]
"""``"off"``: nothing; reports then say `unverified`. ``"probe"``: what can be probed. ``"strict"``: what cannot be probed is not used."""

VARIABLE = "FXKERNELS_VERIFY"
"""The environment variable that says it where no argument does."""

TIMEOUT_VARIABLE = "FXKERNELS_PROBE_TIMEOUT"
_TIMEOUT = 120.0


def verification(argument: str | None = None) -> Verify:
    """Return what applies: the argument, else the environment variable, else ``"probe"``.

    Args:
        argument: What the caller was given as ``verify=``.

    Raises:
        ValueError: If it is none of `Verify`.
    """
    said = argument if argument is not None else os.environ.get(VARIABLE) or "probe"
    for mode in get_args(Verify):
        if said == mode:
            return mode  # type: ignore[no-any-return] # get_args forgets the type
    source = "verify=" if argument is not None else f"the environment variable {VARIABLE}="
    raise ValueError(f"{source}{said!r} is not one of {', '.join(map(repr, get_args(Verify)))}")


@dataclass(frozen=True, slots=True)
class Admitted:
    """A kernel that may be used.

    Args:
        how: ``"probed"``, ``"unprobed"`` (it could not be probed) or ``"unverified"`` (verification is off).
        reason: Why it is unprobed, or which help a probed kernel needs, as a sentence; else empty.
        repairs: What makes the kernel right.
        evidence: What the probe has seen.
        key: The key of the record.
        ranges: For each dynamic size, the smallest and the largest that were probed.
    """

    how: Literal["probed", "unprobed", "unverified"]
    reason: str = ""
    repairs: Repairs = Repairs()
    evidence: dict[str, Any] = field(default_factory=dict)
    key: str | None = None
    ranges: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        return f"{self.how}: {self.reason}" if self.reason else self.how


def admit(case: ProbeCase | str, *, verify: str | None = None, timeout: float | None = None) -> Admitted | Miss:
    """Return how a kernel may be used for a call, or the miss that says what it got wrong.

    What was found out before, in this process or another, is not found out again.

    Args:
        case: The kernel and the form of call, or the phrase that says why it cannot be probed (see `ProbeCase.of`).
        verify: ``"off"``, ``"probe"`` or ``"strict"``, else what ``FXKERNELS_VERIFY`` says, else ``"probe"``.
        timeout: Seconds that a probe may take, else what ``FXKERNELS_PROBE_TIMEOUT`` says, else 120.

    Raises:
        ValueError: If `verify` or one of the environment variables makes no sense.
    """
    mode = verification(verify)
    if mode == "off":
        return Admitted("unverified")
    strict = mode == "strict"
    if isinstance(case, str):
        return _admission_of(None, Verdict.unprobed(case), None, strict)
    key = records.key_of(case)
    verdict = _known(key, case)
    if verdict is None:
        from ..capture import _torch  # not at the top: the child process imports this package, and Dynamo takes longer than all the rest

        limit = _timeout(timeout)
        verdict = _torch.run_for_real(lambda: _probed(case, limit, strict), [case.device])
        _keep(key, case, verdict)
    return _admission_of(case, verdict, key, strict)


def known(case: ProbeCase | str, *, verify: str | None = None) -> Admitted | Miss | None:
    """Return what `admit` would answer without probing anything, or None if only a probe could tell.

    Args:
        case: As for `admit`.
        verify: As for `admit`.

    Raises:
        ValueError: As `admit`.
    """
    mode = verification(verify)
    if mode == "off":
        return Admitted("unverified")
    if isinstance(case, str):
        return _admission_of(None, Verdict.unprobed(case), None, mode == "strict")
    key = records.key_of(case)
    verdict = _known(key, case)
    return _admission_of(case, verdict, key, mode == "strict") if verdict is not None else None


def forget_verdicts() -> None:
    """Forget what this process has found out; records stay."""
    _VERDICTS.clear()


_VERDICTS: dict[tuple[str, str], Verdict] = {}
"""What this process knows, by records directory and key."""


def _known(key: str | None, case: ProbeCase) -> Verdict | None:
    if key is None:
        return None
    place = (str(records.records_directory()), key)
    if place not in _VERDICTS:
        record = records.read(key, records.places_for(case.kernel))
        if record is None:
            return None
        _VERDICTS[place] = record.verdict
    return _VERDICTS[place]


def _keep(key: str | None, case: ProbeCase, verdict: Verdict) -> None:
    if key is None or verdict.result == "unprobed":  # the next attempt may succeed
        return
    _VERDICTS[(str(records.records_directory()), key)] = verdict
    records.write(records.Record.of(key, case, verdict))


def _probed(case: ProbeCase, limit: float, strict: bool) -> Verdict:
    """Probe the kernel in the child; here only if it cannot exist there."""
    try:
        answer = WORKER.ask(to_bytes(case), limit)
    except CannotBeSent as error:
        return _probed_here(case, str(error), strict)
    except CannotStart as error:
        return _probed_here(case, f"no process can be started: {error}", strict)
    if isinstance(answer, Died):
        code = "timeout" if answer.timed_out else "crash"
        return Verdict.refused(Miss(code, "{how}", {"how": answer.how}), {"output": answer.output})
    if "cannot" in answer:
        return _probed_here(case, str(answer["cannot"]), strict)
    return Verdict.from_dict(answer["verdict"])


def _probed_here(case: ProbeCase, reason: str, strict: bool) -> Verdict:
    if strict:
        return Verdict.unprobed(f"it cannot be probed in a process of its own: {reason}")
    _log.debug("%s is probed in this process: %s", case.kernel.identity, reason)
    verdict = probe(case)
    verdict.evidence.setdefault("notes", []).append(f"probed in the user's process: {reason}")
    return verdict


def _admission_of(case: ProbeCase | None, verdict: Verdict, key: str | None, strict: bool) -> Admitted | Miss:
    if verdict.result == "admitted":
        ranges = case.ranges if case is not None else ()
        help_ = "; ".join(verdict.evidence.get("repairs", ()))
        return Admitted("probed", help_, verdict.repairs, verdict.evidence, key, ranges)
    if verdict.result == "unprobed" and not strict:
        return Admitted("unprobed", verdict.message)
    kernel = case.kernel.identity if case is not None else "the kernel"
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
