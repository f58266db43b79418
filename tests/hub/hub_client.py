"""Fixtures: a loopback Hub, and the real huggingface_hub client with a cache of its own, in this process and in fresh ones."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.utils
import pytest
from huggingface_hub import constants
from loopback import LoopbackHub
from packaging.version import Version

ROOT = Path(__file__).parent.parent.parent


def client_is_before(release: str) -> bool:
    """Return whether the installed huggingface_hub is older than a release."""
    return Version(huggingface_hub.__version__) < Version(release)


@dataclass(frozen=True)
class Client:
    """The real client with a cache of its own.

    Args:
        hub: What it talks to.
        home: ``HF_HOME``.
    """

    hub: LoopbackHub
    home: Path

    @property
    def cache(self) -> Path:
        """``HF_HUB_CACHE``."""
        return self.home / "hub"

    def folder(self, repo_id: str) -> Path:
        """A kernel repository's folder in the cache."""
        return self.cache / f"kernels--{repo_id.replace('/', '--')}"

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a fresh process that uses this client."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE_", "FXKERNELS_"))}
        own = {
            "HF_HOME": str(self.home),
            "HF_ENDPOINT": self.hub.url,
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        }
        own["FXKERNELS_VERIFY"] = "off"
        return {**inherited, **own, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **more}

    def run(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script in a fresh process to its end."""
        command = [sys.executable, "-W", "error::ResourceWarning", "-c", script]
        return subprocess.run(
            command, env=self.environment(**environment), capture_output=True, text=True, check=False, cwd=self.home.parent
        )

    def run_mounted(self, mounts: str, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script in a fresh process that sees other disks than we do: `mounts` is run by a shell in a namespace of its own.

        Skips the test where the system does not let us.
        """
        isolated = ["unshare", "--map-root-user", "--mount", "sh", "-ec", f'{mounts}\nexec "$@"', "sh", sys.executable, "-c", script]
        try:
            allowed = subprocess.run([*isolated[:6], mounts], env=self.environment(), capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            allowed = False
        if not allowed:
            pytest.skip("mounting a disk needs Linux with user namespaces")
        return subprocess.run(
            isolated, env=self.environment(**environment), capture_output=True, text=True, check=False, cwd=self.home.parent
        )

    def start(self, script: str, **environment: str) -> subprocess.Popen[str]:
        """Start a script in a fresh process."""
        command = [sys.executable, "-c", script]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env=self.environment(**environment), text=True, cwd=self.home.parent, **pipes)


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """A Hub with nothing on it."""
    with LoopbackHub() as server:
        yield server


@pytest.fixture
def client(hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """The real client in this process, pointed at `hub` and an empty cache. Its constants are read at its import, so they are set here."""
    home = tmp_path_factory.mktemp("hf")
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGINGFACE_", "FXKERNELS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FXKERNELS_VERIFY", "off")  # kernels are published here, not judged
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    _set(monkeypatch, "HF_HOME", str(home))
    _set(monkeypatch, "HF_HUB_CACHE", str(home / "hub"))
    _set(monkeypatch, "HF_TOKEN_PATH", str(home / "token"))
    _set(monkeypatch, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
    _set(monkeypatch, "HF_XET_CACHE", str(home / "xet"))
    _set(monkeypatch, "HF_HUB_DISABLE_XET", True)
    _set(monkeypatch, "HF_HUB_OFFLINE", False)
    _set(monkeypatch, "ENDPOINT", hub.url)
    _set(monkeypatch, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    huggingface_hub.utils.disable_progress_bars()
    huggingface_hub.close_session()
    yield Client(hub, home)
    huggingface_hub.close_session()


@pytest.fixture
def offline(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """``HF_HUB_OFFLINE=1``, from the start of the test on; `go_offline` is for later."""
    go_offline(monkeypatch)


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do to this process what ``HF_HUB_OFFLINE=1`` does to a fresh one."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _set(monkeypatch, "HF_HUB_OFFLINE", True)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the client has waited between its tries; the waiting itself is left out."""
    seconds: list[float] = []
    shim = SimpleNamespace(**{name: getattr(time, name) for name in dir(time) if not name.startswith("_")})
    shim.sleep = seconds.append
    for name in ("huggingface_hub.utils._http", "huggingface_hub.file_download", "fxkernels.hub.remote.retries"):
        monkeypatch.setattr(importlib.import_module(name), "time", shim)
    return seconds


def _set(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    monkeypatch.setattr(constants, name, value)
