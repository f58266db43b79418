"""A kernelized model with its kernel from the Hub: with the network, then in fresh processes without it, then from a lock file."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from kernel_repositories import FOLDER, copy_repository
from layers import Stack
from published import UNIVERSAL

import fxkernels
import fxkernels.cli
from fxkernels import LayerRepository
from fxkernels.hub import HubSnapshot, forget_resolved

# What a user's program does; each run of it is a process of its own.
PROGRAM = """
import json, sys
import torch
import fxkernels
from fxkernels import KernelizeFallback, LayerRepository
from layers import Stack

lockfile, capture, fallback = json.loads(sys.argv[1])
torch.manual_seed(0)
model = Stack().eval()
x = torch.randn(4, 8)
mapping = {"RMSNorm": {"cpu": LayerRepository("acme/norms", layer_name="RMSNorm", version=1)}}
options = {"use_fallback": KernelizeFallback.ALL if fallback else True, **({"lockfile": lockfile} if lockfile else {})}
kernelized = fxkernels.kernelize(model, mapping=mapping, capture=capture, **options)
torch.testing.assert_close(kernelized(x), model(x))
kernels = sorted({str(call.kernel) for call in kernelized.report.rewritten})
misses = sorted({miss.code for call in kernelized.report.calls for decision in call.decisions for miss in decision.misses})
ran = next((sum(module.CALLS.values()) for name, module in sys.modules.items() if name == "fxtest_norms"), 0)
print(json.dumps({"kernels": kernels, "misses": misses, "calls": len(kernelized.report.rewritten), "ran": ran}))
"""


@pytest.fixture
def run(client):
    def run(lockfile=None, capture="dynamo", fallback=False, **environment):
        arguments = json.dumps([str(lockfile) if lockfile else None, capture, fallback])
        result = client.run(f"import sys; sys.argv = ['program', {arguments!r}]\n{PROGRAM}", **environment)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return run


@pytest.fixture(autouse=True)
def fresh():
    forget_resolved()


@pytest.fixture
def published(hub):
    """The kernels of tests/repositories/norms on the Hub, as version 1."""
    return hub.add("acme/norms", FOLDER / "norms")


@pytest.fixture
def project(client, published, tmp_path):
    """A project whose kernels were locked by the command, with the network."""
    (tmp_path / "pyproject.toml").write_text('[tool.fxkernels.kernels]\n"acme/norms" = { version = 1 }\n')
    locked = CliRunner().invoke(fxkernels.cli.main, ["lock", str(tmp_path)])
    assert locked.exit_code == 0, locked.output
    return tmp_path


def rewritten(commit: str, calls: int = 3) -> dict[str, object]:
    return {"kernels": [f"acme/norms@{commit[:7]}:RMSNorm"], "misses": [], "calls": calls, "ran": calls}


def test_model_runs_from_the_hub_then_offline_in_a_fresh_process(hub, published, run):
    assert run(FXKERNELS_VERIFY="probe") == rewritten(published)
    assert sorted(set(hub.downloads())) == sorted(
        f"build/{UNIVERSAL}/{path.name}" for path in (FOLDER / "norms/build" / UNIVERSAL).glob("*.*")
    )
    hub.requests.clear()
    hub.stop()
    assert run(HF_HUB_OFFLINE="1", capture="auto") == rewritten(published)
    assert hub.requests == []


@pytest.mark.slow
def test_model_runs_from_a_lock_file_though_the_version_has_moved_and_then_offline(hub, published, project, run):
    moved = hub.add("acme/norms", {"build/torch-universal/metadata.json": "{}"})
    assert run(lockfile=project / "fxkernels.lock") == rewritten(published)
    assert moved[:7] not in str(hub.requests[-20:])
    hub.requests.clear()
    assert run(lockfile=project / "fxkernels.lock", HF_HUB_OFFLINE="1") == rewritten(published)
    assert hub.requests == []


@pytest.mark.slow
def test_model_with_a_lock_file_does_not_run_a_changed_kernel_and_keeps_the_reference(hub, client, published, project, run):
    HubSnapshot("acme/norms", published).directory(UNIVERSAL)
    (layers,) = (client.folder("acme/norms") / "snapshots" / published).rglob("layers.py")
    layers.resolve().write_text(layers.read_text() + "\nEVIL = True\n")
    found = run(lockfile=project / "fxkernels.lock", fallback=True, HF_HUB_OFFLINE="1")
    assert found == {"kernels": [], "misses": ["digest"], "calls": 0, "ran": 0}


def test_model_that_is_compiled_runs_from_the_hub(hub, client, tmp_path):
    # In this process, where other tests load tests/repositories/norms under its own id.
    published = hub.add("acme/norms", copy_repository("norms", tmp_path, "end_to_end_compiled"))
    mapping = {"RMSNorm": {"cpu": LayerRepository("acme/norms", layer_name="RMSNorm", version=1)}}
    model, x = Stack().eval(), torch.randn(4, 8)
    compiled = torch.compile(model, backend=fxkernels.hubkernels(mapping=mapping, inner="eager"))
    torch.testing.assert_close(compiled(x), model(x))
    report = fxkernels.last_report()
    assert {str(call.kernel) for call in report.rewritten} == {f"acme/norms@{published[:7]}:RMSNorm"}
    assert published[:7] in str(report)
