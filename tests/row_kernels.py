"""The kernel repositories that register their ops in each of the ways found on the Hub, made ready to be loaded.

Those in C++ are compiled on first use, with the compiler that is there. Those in Triton are built for CUDA, and copied to a build for any
device where the CPU is meant (for the interpreter, or to be traced and never run). Both end up in a folder of the machine's temporary
files, named by a hash of what went in, so other processes and later runs find the same files.

Example:
    >>> mapping = {"RMSNorm": {"cpu": row_repository("cpp-fake", "RMSNorm")}}
    >>> run_the_model()
    >>> calls("cpp-fake")
    (1, 0)
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from kernel_repositories import FOLDER, UNIVERSAL

from fxkernels.hub import LocalLayerRepository

CPP = ("cpp-out", "cpp-fake", "cpp-no-fake")
TRITON = ("triton-op", "triton-raw")


def compiler() -> str | None:
    """The C++ compiler, if there is one."""
    return next((found for name in (os.environ.get("CXX"), "g++", "clang++") if name and (found := shutil.which(name))), None)


def why_unavailable(name: str, device: str = "cpu") -> str | None:
    """Why a repository cannot be had here, as a reason for skipping a test; None if it can."""
    if name in CPP and compiler() is None:
        return "needs a C++ compiler"
    if name not in TRITON:
        return None
    if _triton_version() is None:
        return "needs triton"
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "Triton runs on the CPU in its interpreter only (TRITON_INTERPRET=1)"
    return None


def row_repository(name: str, layer_name: str, device: str = "cpu") -> LocalLayerRepository:
    """Return a layer of the repository ``tests/repositories/<name>``, ready to be loaded on a device type."""
    return LocalLayerRepository(row_directory(name, device), layer_name=layer_name)


@functools.cache
def row_directory(name: str, device: str = "cpu") -> Path:
    """Return the repository itself."""
    source = FOLDER / name
    if name not in CPP and not (name in TRITON and device == "cpu"):
        return source
    files = sorted(path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    parts = [torch.__version__, *(f"{path.relative_to(source)}\0{path.read_text()}" for path in files)]
    destination = _shared_folder() / f"{name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"
    if not destination.exists():
        _assemble(source, destination)
    return destination / name


def calls(name: str) -> tuple[int, int]:
    """Return how often the kernels of a repository have run on real tensors, forward and backward; for those in C++ and ``custom-op``."""
    if name == "custom-op":
        counter = sys.modules["fxtest_custom_op.ops"].CALLS
        return counter["calls"], counter["backward_calls"]
    ops = getattr(torch.ops, f"fxtest_{name.replace('-', '_')}")
    return ops.calls(), ops.backward_calls() if hasattr(ops, "backward_calls") else 0


def _assemble(source: Path, destination: Path) -> None:
    """Put the repository together elsewhere and move it into place, for other processes may want it at the same time."""
    with tempfile.TemporaryDirectory(dir=destination.parent) as temporary:
        repository = Path(temporary) / "finished" / source.name
        shutil.copytree(source, repository, ignore=shutil.ignore_patterns("__pycache__"))
        if source.name in CPP:
            _compile(repository / "src" / "ops.cpp", repository / "build" / UNIVERSAL / "libops.so")
        else:
            (repository / "build" / "torch-cuda").rename(repository / "build" / UNIVERSAL)
        try:
            repository.parent.rename(destination)
        except OSError:
            if not destination.exists():
                raise


def _compile(source: Path, library: Path) -> None:
    folder = Path(torch.__file__).parent
    found = compiler()
    assert found is not None, "ask why_unavailable() first"
    options = ["-O1", "-std=c++20", "-shared", "-fPIC", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    paths = ["-isystem", str(folder / "include"), f"-L{folder / 'lib'}"]
    command = [found, *options, *paths, str(source), "-o", str(library), "-lc10", "-ltorch_cpu"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stderr}"


@functools.cache
def _shared_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"fxkernels-test-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    assert folder.stat().st_uid == os.getuid(), f"{folder} belongs to somebody else"
    return folder


@functools.cache
def _triton_version() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    return str(triton.__version__)
