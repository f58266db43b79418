"""The process in which kernels are probed, from both sides: started when it is needed, one for all probes, replaced when it died.

It imports torch and fxkernels, and of the user's modules only those that a kernel needs.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pickle
import selectors
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from typing import IO, Any

import torch

from ..passes.miss import Miss
from .probe import probe
from .runner import described
from .verdict import Verdict
from .wire import CannotBeSent, NeedsClass, from_bytes

START_LIMIT = 180.0
"""Seconds for importing torch, on a machine that has other things to do."""

IDLE_LIMIT = 60.0
"""Seconds after which a child without work is let go."""

_HEADER = struct.Struct("!Q")
_SHOWN = 2000  # characters of what the child printed
# Not `-m`: that would put the current directory on the path, where a user may have a file named like a module. Not multiprocessing: that
# imports the user's __main__ a second time.
_PROGRAM = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from fxkernels.admission.worker import main; main(*map(int, sys.argv[2:]))"
)
# What libraries read when they are imported. A child that was started with other values of these is of no use any more.
_INHERITED = ("TRITON", "TORCH", "PYTORCH", "CUDA", "HIP", "HF_", "OMP", "MKL", "HOME", "PATH", "LD_")


@dataclass(frozen=True, slots=True)
class Died:
    """The child ended before it answered.

    Args:
        how: A phrase.
        timed_out: Whether it was ended because it took too long.
        output: The end of what it had printed.
    """

    how: str
    timed_out: bool
    output: str


class CannotStart(Exception):
    """There is no child process to be had."""


class Worker:
    """Sends cases to a child process. Threads may share it; they wait for each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._timer: threading.Timer | None = None
        self.starts = 0

    def ask(self, case: bytes, limit: float) -> dict[str, Any] | Died:
        """Return the child's answer.

        Args:
            case: The case, see `wire.to_bytes`.
            limit: Seconds that the probe may take.

        Raises:
            CannotStart: If no child process can be started.
        """
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            child = self._running()
            answer = child.ask(pickle.dumps({"settings": _settings(), "case": case}), limit)
            if isinstance(answer, Died) or answer.get("spent"):
                self._close()
            self._timer = threading.Timer(IDLE_LIMIT, self.close)
            self._timer.daemon = True
            self._timer.start()
            return answer

    def close(self) -> None:
        """End the child, if there is one. The next case starts another."""
        with self._lock:
            self._close()

    def _running(self) -> _Child:
        child = self._child
        if child is not None and not child.is_usable():
            self._close()
            child = None
        if child is None:
            self.starts += 1
            child = self._child = _Child()
        return child

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._child is not None:
            self._child.close()
            self._child = None


@dataclass
class _Child:
    """One child process."""

    environment: dict[str, str] = field(default_factory=lambda: _environment())
    owner: int = field(default_factory=os.getpid)

    def __post_init__(self) -> None:
        if not sys.executable:
            raise CannotStart("sys.executable does not say where Python is")
        theirs, self._cases = os.pipe()
        self._answers, their_answers = os.pipe()
        self._printed: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        command = [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), str(theirs), str(their_answers)]
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": self._printed, "stderr": subprocess.STDOUT}
        try:
            self._process = subprocess.Popen(command, **streams, pass_fds=(theirs, their_answers))
        except OSError as error:
            os.close(self._cases)
            os.close(self._answers)
            self._printed.close()
            raise CannotStart(str(error)) from error
        finally:
            os.close(theirs)
            os.close(their_answers)
        ready = self._read(START_LIMIT)
        if not isinstance(ready, dict):
            self.close()
            raise CannotStart(f"{ready.how}: {ready.output}")

    def is_usable(self) -> bool:
        """Whether it lives, is this process's own, and has the environment that this process has now."""
        return self.owner == os.getpid() and self._process.poll() is None and self.environment == _environment()

    def ask(self, message: bytes, limit: float) -> dict[str, Any] | Died:
        """Send a message and return the answer."""
        self._printed.seek(0, os.SEEK_END)
        start = self._printed.tell()
        with contextlib.suppress(OSError):  # it is gone; how, the next line finds out
            _write(self._cases, _HEADER.pack(len(message)) + message)
        return self._read(limit, start)

    def close(self) -> None:
        """End it."""
        for descriptor in (self._cases, self._answers):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        if self.owner == os.getpid():
            self._process.kill()
            self._process.wait()
        self._printed.close()

    def _read(self, limit: float, start: int = 0) -> dict[str, Any] | Died:
        deadline = time.monotonic() + limit
        header = self._read_bytes(_HEADER.size, deadline)
        data = self._read_bytes(_HEADER.unpack(header)[0], deadline) if isinstance(header, bytes) else header
        if isinstance(data, bytes):
            found: dict[str, Any] = json.loads(data)
            return found
        timed_out = data is None
        if timed_out:
            self._process.kill()
        code = self._process.wait()
        how = f"it had no answer after {limit:g} seconds" if timed_out else _how_it_ended(code)
        return Died(how, timed_out, self._tail(start))

    def _read_bytes(self, count: int, deadline: float) -> bytes | bool | None:
        """That many bytes; False if there will be no more, None if they did not come in time."""
        data = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while len(data) < count:
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    return None
                chunk = os.read(self._answers, count - len(data))
                if not chunk:
                    return False
                data += chunk
        return data

    def _tail(self, start: int) -> str:
        self._printed.seek(start)
        return self._printed.read().decode(errors="replace").strip()[-_SHOWN:]


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"the process that ran it ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    killed = ", perhaps for want of memory" if name == "SIGKILL" else ""
    return f"the process that ran it ended by {name}{killed}"


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_INHERITED)}


WORKER = Worker()
"""The one of this process."""

atexit.register(WORKER.close)


# --- in the child -------------------------------------------------------------------------------------------------------------------------


def main(receiving: int, sending: int) -> None:
    """Probe cases until the parent hangs up: what the child process runs.

    Args:
        receiving: The file descriptor from which cases come.
        sending: The one to which verdicts go. Kernels print where they like; this one is ours.
    """
    _be_the_first_to_go()
    with os.fdopen(receiving, "rb") as cases, os.fdopen(sending, "wb") as answers:
        _send(answers, {"ready": True})
        while header := cases.read(_HEADER.size):
            data = cases.read(_HEADER.unpack(header)[0])
            _send(answers, _answer_to(data))


def _answer_to(data: bytes) -> dict[str, Any]:
    """Return the verdict on a case, or why there is none here."""
    message = pickle.loads(data)
    _apply_settings(message["settings"])
    device = "cpu"
    try:
        try:
            case = from_bytes(message["case"])
            device = case.device.type
            verdict = probe(case)
        except NeedsClass:
            verdict = probe(from_bytes(message["case"], real_classes=True))
    except CannotBeSent as error:
        return {"cannot": str(error)}
    except NeedsClass as error:
        return {"cannot": f"the kernel uses {error}"}
    except SystemExit as error:
        verdict = Verdict.refused(Miss("crash", "it ends the process: exit({code})", {"code": error.code}), {})
    except Exception as error:
        failed = described(error)
        if "CUDA" not in failed and not isinstance(error, torch.AcceleratorError):
            return {"verdict": Verdict.unprobed(f"the probe failed: {failed}").as_dict()}
        verdict = Verdict.refused(Miss("crash", "after it ran, the device fails: {error}", {"error": failed}), {})
    # An accelerator on which something failed may fail again for the next kernel; another process begins anew.
    return {"verdict": verdict.as_dict(), "spent": verdict.code == "crash" and device != "cpu"}


def _settings() -> dict[str, Any]:
    """Return the settings of torch in this process on which numbers depend."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return {
        "threads": torch.get_num_threads(),
        "default_dtype": torch.get_default_dtype(),
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        "reduced": (matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction),
        "cudnn": (cudnn.enabled, cudnn.deterministic, cudnn.benchmark),
        "environment": _own_variables(),
    }


def _apply_settings(found: dict[str, Any]) -> None:
    """Give this process the settings of another one."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    torch.set_num_threads(found["threads"])
    torch.set_default_dtype(found["default_dtype"])
    torch.set_float32_matmul_precision(found["precision"])
    torch.use_deterministic_algorithms(found["deterministic"][0], warn_only=found["deterministic"][1])
    matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction = found["reduced"]
    cudnn.enabled, cudnn.deterministic, cudnn.benchmark = found["cudnn"]
    for name in _own_variables().keys() - found["environment"].keys():
        del os.environ[name]
    os.environ.update(found["environment"])


def _own_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("FXKERNELS_")}


def _send(answers: Any, answer: dict[str, Any]) -> None:
    data = json.dumps(answer).encode()
    answers.write(_HEADER.pack(len(data)) + data)
    answers.flush()


def _be_the_first_to_go() -> None:
    """Where Linux is short of memory, it ends this process rather than the user's."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")
