"""The process in which kernels are probed. It imports torch and fxkernels, and of the user's modules only those that a kernel needs."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import struct
import sys
from typing import Any

import torch

from ..passes.miss import Miss
from .evidence import Verdict
from .probe import probe
from .running import described
from .wire import CannotBeSent, NeedsClass, from_bytes

_HEADER = struct.Struct("!Q")


def main(receiving: int, sending: int) -> None:
    """Answer requests until the parent hangs up.

    Args:
        receiving: The file descriptor from which requests come.
        sending: The one to which answers go. Kernels print where they like; this one is ours.
    """
    _be_the_first_to_go()
    with os.fdopen(receiving, "rb") as requests, os.fdopen(sending, "wb") as answers:
        _send(answers, {"ready": True})
        while header := requests.read(_HEADER.size):
            data = requests.read(_HEADER.unpack(header)[0])
            _send(answers, answer_to(data))


def answer_to(data: bytes) -> dict[str, Any]:
    """Return the verdict on a request, or why there is none here."""
    message = pickle.loads(data)
    apply_settings(message["settings"])
    device = "cpu"
    try:
        try:
            request = from_bytes(message["request"])
            device = request.device.type
            verdict = probe(request)
        except NeedsClass:
            verdict = probe(from_bytes(message["request"], real_classes=True))
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
    # An accelerator on which something failed may fail for everybody after it; another process begins anew.
    return {"verdict": verdict.as_dict(), "spent": verdict.code == "crash" and device != "cpu"}


def settings() -> dict[str, Any]:
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


def apply_settings(found: dict[str, Any]) -> None:
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
