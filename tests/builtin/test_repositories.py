"""The repositories that ship with the library, and the mapping that offers them."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import torch

from fxkernels import demo_model
from fxkernels.builtin import BUILTIN_CUDA_LAYERS, BUILTIN_LAYERS, builtin_mapping, builtin_repository
from fxkernels.hub import read_metadata
from fxkernels.mapping import KernelMapping
from fxkernels.mode import Mode
from fxkernels.target import Target

CPU = Target.of_machine("cpu")
CUDA = Target("cuda", 90, "2.13", "cu130", "linux", "x86_64")
MODES = (Mode.INFERENCE, Mode.TRAINING, Mode.INFERENCE | Mode.TORCH_COMPILE, Mode.TRAINING | Mode.TORCH_COMPILE)


def builds() -> list[Path]:
    folders = {builtin_repository(name).path for name in (*BUILTIN_CUDA_LAYERS, "experts")}
    return sorted(path.parent for folder in folders for path in folder.glob("build/*/metadata.json"))


def test_metadata_is_valid_and_every_build_has_an_id_of_its_own():
    ids = [read_metadata(build).id for build in builds()]
    assert len(ids) == 14  # seven in Triton, seven for CPUs
    assert len(set(ids)) == len(ids)
    assert all(name.startswith("_fxkernels_") for name in ids)


def test_metadata_is_valid_for_the_kernels_package():
    metadata = pytest.importorskip("kernels._rust").Metadata
    assert [metadata.read_from_file(build / "metadata.json").id for build in builds()] == [read_metadata(build).id for build in builds()]


@pytest.mark.parametrize("layer_name", BUILTIN_LAYERS)
def test_the_layer_is_a_module_without_own_init_that_declares_both_flags(layer_name):
    kernel = builtin_repository(layer_name).load_for(CPU)
    assert issubclass(kernel.cls, torch.nn.Module)
    assert "__init__" not in vars(kernel.cls)
    assert kernel.has_backward
    assert kernel.can_torch_compile


@pytest.mark.parametrize("layer_name", BUILTIN_LAYERS)
def test_the_layer_takes_exactly_the_references_parameters(layer_name):
    reference = getattr(demo_model, layer_name)
    wanted = inspect.signature(reference.forward if isinstance(reference, type) else reference).parameters.values()
    got = inspect.signature(builtin_repository(layer_name).load_for(CPU).cls.forward).parameters.values()
    assert [(p.name, p.default) for p in got if p.name != "self"] == [(p.name, p.default) for p in wanted if p.name != "self"]


def test_the_default_mapping_offers_its_kernels_on_cpus_for_inference_and_training():
    mapping = KernelMapping.of(builtin_mapping())
    for layer_name in [name for name, devices in builtin_mapping().items() if "cpu" in devices]:
        for mode in MODES:
            entries = mapping.lookup(layer_name, CPU, mode)
            assert [entry.repository for entry in entries] == [builtin_repository(layer_name)]


def test_the_default_mapping_holds_exactly_the_kernels_that_the_measured_rows_say_are_faster():
    lines = (Path(__file__).parents[2] / "benchmarks" / "results" / "builtin_cpu.jsonl").read_text().splitlines()
    ratios: dict[str, list[float]] = {name: [] for name in BUILTIN_LAYERS}
    for row in map(json.loads, lines):
        layer_name, size, *_ = row["question"].split()
        if int(size.split("x")[1]) >= 512:
            ratios[layer_name].append(row["ratio"])
    assert {name for name, devices in builtin_mapping().items() if "cpu" in devices} == {
        name for name, values in ratios.items() if min(values) >= 1.1
    }


def test_the_default_mapping_is_a_new_dictionary_at_each_call():
    builtin_mapping().clear()
    assert builtin_mapping()


@pytest.mark.parametrize("layer_name", BUILTIN_CUDA_LAYERS)
def test_every_triton_layer_declares_both_flags_and_what_it_demands(layer_name):
    pytest.importorskip("triton")
    kernel = builtin_repository(layer_name).load_for(CUDA)
    assert kernel.has_backward is (layer_name != "attention")  # which is for decoding only
    assert kernel.can_torch_compile
    assert any("dtype" in text for text in kernel.constraints)


def test_the_default_mapping_offers_on_cuda_what_gains_something():
    mapping = KernelMapping.of(builtin_mapping())
    for mode in MODES:
        norms = [entry.repository.layer_name for entry in mapping.lookup("RMSNorm", CUDA, mode)]
        assert norms == ["RMSNorm", "RMSNormRoundedLast"]
        assert [entry.repository.layer_name for entry in mapping.lookup("SiluAndMul", CUDA, mode)] == ["SiluAndMul"]
    assert "GeLU" not in mapping


def test_no_kernel_of_the_default_mapping_is_slower_than_eager_in_a_measured_row_on_cuda():
    lines = (Path(__file__).parents[2] / "benchmarks" / "results" / "builtin_gpu.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "microseconds" in row]
    defaults = {name for name, devices in builtin_mapping().items() if "cuda" in devices}
    times = {row["question"]: row["microseconds"] for row in rows if row["question"].split()[0] in defaults}
    assert len(times) == len(rows) == 72
    assert not [question for question, found in times.items() if found["eager"] < 1.1 * found["kernel"]]


def test_an_unknown_layer_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="'GroupNorm'; there are: AddRMSNorm, FastGELU, ForCausalLMLoss"):
        builtin_repository("GroupNorm")
