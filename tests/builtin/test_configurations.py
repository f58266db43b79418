"""How built-in Triton kernels are launched: the table of what was measured, and the rule where nothing was."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from builtin_cases import CASES, kernel_of, prepared, step

from fxkernels.builtin import BUILTIN_CUDA_LAYERS, builtin_repository
from fxkernels.target import Target

pytest.importorskip("triton")

BUILDS = sorted({builtin_repository(name).path / "build" / "torch-cuda" for name in BUILTIN_CUDA_LAYERS})
TABLES = [build / "configurations.json" for build in BUILDS if (build / "configurations.json").exists()]
GPU = torch.device("cuda", 0)
RULE = {"rows": 1, "warps": 4}


@pytest.fixture
def configurations(monkeypatch):
    """The module of the RMSNorm build, on a machine whose GPU is an H200."""
    kernel = builtin_repository("RMSNorm").load_for(Target("cuda", 90, "2.13", "cu130", "linux", "x86_64"))
    module = sys.modules[kernel.cls.__module__.replace(".layers", ".configurations")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    classes = [[16, {"warps": 2}], [None, {"warps": 8}]]
    monkeypatch.setattr(module, "_TABLE", {"90": {"forward": {"4096": classes}}})
    return module


def test_the_lookup_is_one_text_in_all_builds():
    assert len(TABLES) == 5
    assert len({(path.parent / "configurations.py").read_text() for path in TABLES}) == 1


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.parts[-4])
def test_the_classes_of_a_length_are_in_order_and_the_last_one_has_no_end(path: Path):
    for kernels in json.loads(path.read_text()).values():
        for classes in itertools.chain.from_iterable(lengths.values() for lengths in kernels.values()):
            ends = [most for most, _ in classes]
            assert ends[-1] is None
            assert ends[:-1] == sorted(ends[:-1])


@pytest.mark.parametrize(("count", "warps"), [(1, 2), (16, 2), (17, 8), (10**9, 8)])
def test_the_number_of_rows_chooses_the_class(configurations, count, warps):
    assert configurations.configured("forward", 4096, count, GPU, RULE) == {"rows": 1, "warps": warps}


@pytest.mark.parametrize(("kernel", "block"), [("forward", 2048), ("backward", 4096)])
def test_what_was_not_measured_is_launched_by_the_rule(configurations, kernel, block):
    assert configurations.configured(kernel, block, 1, GPU, RULE) == RULE


def test_another_gpu_and_a_cpu_are_launched_by_the_rule(configurations, monkeypatch):
    assert configurations.configured("forward", 4096, 1, torch.device("cpu"), RULE) == RULE
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert configurations.configured("forward", 4096, 1, GPU, RULE) == RULE


def test_stages_that_do_not_fit_into_shared_memory_are_left_out(configurations):
    assert [configurations.affordable(3, size << 10, torch.device("cpu")) for size in (23, 24, 47, 48)] == [3, 2, 2, 1]


# --- the measured configurations compute the same ----------------------------------------------------------------------------------------

LAYERS = {
    ("rmsnorm", "forward"): "RMSNorm",
    ("rmsnorm", "backward"): "RMSNorm",
    ("rmsnorm", "forward, gated"): "RMSNorm gated by SiLU",
    ("rmsnorm", "backward, gated"): "RMSNorm gated by SiLU",
    ("layernorm", "forward"): "LayerNorm",
    ("layernorm", "backward"): "LayerNorm",
    ("rotary", "rotate"): "rotary",
    ("activation", "gated_forward"): "SiluAndMul",
    ("activation", "gated_backward"): "SiluAndMul",
    ("activation", "plain_forward"): "NewGELU",
    ("activation", "plain_backward"): "NewGELU",
    ("causal_conv1d", "forward"): "causal convolution, SiLU",
    ("causal_conv1d", "backward"): "causal convolution, SiLU",
}


def modules_that_look_up(forward: Callable[..., object]) -> list[ModuleType]:
    """Those of the forward's build that ask the table."""
    package = forward.__module__.rpartition(".")[0]
    return [module for name, module in sys.modules.items() if name.startswith(f"{package}.") and hasattr(module, "configured")]


def entries() -> list[tuple[str, str, str]]:
    """Folder, kernel and configuration as text, each once."""
    found = {
        (path.parts[-4], kernel, json.dumps(configuration))
        for path in TABLES
        for kernels in json.loads(path.read_text()).values()
        for kernel, lengths in kernels.items()
        for classes in lengths.values()
        for _, configuration in classes
    }
    return sorted(found)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="runs in Triton's interpreter: TRITON_INTERPRET=1")
@pytest.mark.slow
@pytest.mark.parametrize(("folder", "kernel", "configuration"), entries())
def test_every_measured_configuration_computes_what_the_rule_does(monkeypatch, folder, kernel, configuration):
    case = CASES[LAYERS[folder, kernel]]
    layer, arguments = prepared(case, torch.float32, rows=37, size=48)
    forward = kernel_of(case)
    wanted, weights = step(lambda *values: forward(layer, *values), layer, arguments)
    measured = json.loads(configuration)
    if "programs" in measured:
        measured["programs"] = 5  # so that a program has several tiles here
    for module in modules_that_look_up(forward):
        monkeypatch.setattr(module, "configured", lambda which, *rest: rest[-1] | (measured if which == kernel else {}))
    found, _ = step(lambda *values: forward(layer, *values), layer, arguments, weights)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
