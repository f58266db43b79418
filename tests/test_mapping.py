"""Mappings: what they accept, how they merge, what a lookup finds and where a mapping is in force."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fxkernels.mapping import KernelMapping, MappingEntry, current_mapping, register_kernel_mapping, use_kernel_mapping
from fxkernels.mode import Mode, preference
from fxkernels.passes.miss import Miss
from fxkernels.target import CUDAProperties, Device, Target

CPU = Target(device="cpu", capability=None, torch="2.13", accelerator=None, os="linux", cpu="x86_64")
H100 = Target(device="cuda", capability=90, torch="2.13", accelerator="cu130", os="linux", cpu="x86_64")


@dataclass(frozen=True)
class Named:
    """A repository that is told apart by its name."""

    name: str

    def load(self) -> type[nn.Module]:
        return nn.Identity


X, Y, Z = Named("X"), Named("Y"), Named("Z")


def found(mapping: KernelMapping, layer_name: str, target: Target = CPU, mode: Mode = Mode.INFERENCE) -> list[str]:
    """The names of the repositories that a lookup offers, best first."""
    entries = mapping.lookup(layer_name, target, mode)
    assert not isinstance(entries, Miss), entries
    return [entry.repository.name for entry in entries]  # type: ignore[attr-defined]


def missed(mapping: KernelMapping, layer_name: str, target: Target = CPU, mode: Mode = Mode.INFERENCE) -> Miss:
    miss = mapping.lookup(layer_name, target, mode)
    assert isinstance(miss, Miss), miss
    return miss


# What a mapping accepts


def test_repository_without_a_mode_serves_every_mode_as_fallback() -> None:
    mapping = KernelMapping.of({"Norm": {"cpu": X}})
    for mode in (Mode.INFERENCE, Mode.TRAINING, Mode.INFERENCE | Mode.TORCH_COMPILE, Mode.TRAINING | Mode.TORCH_COMPILE):
        assert mapping.lookup("Norm", CPU, mode) == (MappingEntry(X, Mode.FALLBACK, Device("cpu")),)


def test_metal_and_mps_are_one_device() -> None:
    assert found(KernelMapping.of({"Norm": {"metal": X}}), "Norm", replace(CPU, device="mps")) == ["X"]
    assert found(KernelMapping.of({"Norm": {"mps": X}}), "Norm", replace(CPU, device="metal")) == ["X"]


def test_one_place_filled_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"mapping\['Norm'\]\['mps'\] gives mps in mode FALLBACK a second repository"):
        KernelMapping.of({"Norm": {"metal": X, "mps": Y}})


def test_unknown_device_type_is_an_error_that_says_where_and_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"in mapping\['Norm'\]: unknown device type 'gpu'; known are cpu, cuda, rocm, mps \(or metal\)"):
        KernelMapping.of({"Norm": {"gpu": X}})


@pytest.mark.parametrize("mode", [Mode.TORCH_COMPILE, Mode(Mode.FALLBACK.value | Mode.TRAINING.value)])
def test_mode_that_nobody_asks_for_is_an_error_that_says_where(mode: Mode) -> None:
    with pytest.raises(ValueError, match=r"in mapping\['Norm'\]\['cpu'\]: no model ever asks.*FALLBACK"):
        KernelMapping.of({"Norm": {"cpu": {mode: X}}})


def test_key_that_is_no_mode_is_an_error_that_says_where() -> None:
    with pytest.raises(TypeError, match=r"in mapping\['Norm'\]\['cpu'\]: 'inference' is not a mode"):
        KernelMapping.of({"Norm": {"cpu": {"inference": X}}})


def test_object_without_load_is_an_error_that_says_what_a_repository_is() -> None:
    with pytest.raises(TypeError, match=r"mapping\['Norm'\]\['cpu'\] is 'acme/norms', which has no load\(\)"):
        KernelMapping.of({"Norm": {"cpu": "acme/norms"}})


def test_class_in_place_of_a_repository_is_an_error() -> None:
    with pytest.raises(TypeError, match="is the class Named; a mapping needs a repository object"):
        KernelMapping.of({"Norm": {"cpu": Named}})


def test_layer_mapped_to_a_repository_without_a_device_is_an_error_that_shows_the_form() -> None:
    with pytest.raises(TypeError, match=r"mapping\['Norm'\] must be a dict from device to repository.*\{'cuda': repository\}"):
        KernelMapping.of({"Norm": X})  # type: ignore[dict-item]


@pytest.mark.parametrize("mapping", [None, [("Norm", X)], X])
def test_mapping_must_be_a_dict(mapping: Any) -> None:
    with pytest.raises(TypeError, match="a kernel mapping is a dict"):
        KernelMapping.of(mapping)


def test_layer_names_must_be_strings_that_say_something() -> None:
    with pytest.raises(TypeError, match="are layer names, not 3"):
        KernelMapping.of({3: {"cpu": X}})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="empty layer name"):
        KernelMapping.of({"": {"cpu": X}})


def test_mapping_does_not_follow_later_changes_of_the_dict_it_came_from() -> None:
    source: dict[str, Any] = {"Norm": {"cpu": X}}
    mapping = KernelMapping.of(source)
    source["Norm"]["cpu"] = Y
    source["Act"] = {"cpu": Y}
    assert found(mapping, "Norm") == ["X"]
    assert "Act" not in mapping


def test_mapping_written_for_the_kernels_package_is_accepted() -> None:
    kernels = pytest.importorskip("kernels.layer")
    repository = kernels.LayerRepository("acme/norms", layer_name="Norm", revision="main")
    device = kernels.Device(type="cuda", properties=kernels.CUDAProperties(min_capability=80, max_capability=90))
    mapping = KernelMapping.of({"Norm": {device: {kernels.Mode.INFERENCE | kernels.Mode.TORCH_COMPILE: repository}}})
    expected = MappingEntry(repository, Mode.INFERENCE | Mode.TORCH_COMPILE, Device("cuda", CUDAProperties(80, 90)))
    assert mapping.lookup("Norm", H100, Mode.INFERENCE) == (expected,)


def test_mapping_survives_pickling_and_a_deep_copy_keeps_its_repositories() -> None:
    mapping = KernelMapping.of({"Norm": {"cpu": X}})
    assert pickle.loads(pickle.dumps(mapping)) == mapping
    entries = copy.deepcopy(mapping).lookup("Norm", CPU, Mode.TRAINING)
    assert not isinstance(entries, Miss)
    assert entries[0].repository is X


# What a lookup finds


@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAINING, Mode.INFERENCE | Mode.TORCH_COMPILE, Mode.TRAINING | Mode.TORCH_COMPILE])
def test_entries_come_in_the_preference_order_of_the_mode(mode: Mode) -> None:
    everything = {option: Named(option.label) for option in reversed(preference(Mode.INFERENCE))}
    mapping = KernelMapping.of({"Norm": {"cpu": everything}})
    assert found(mapping, "Norm", CPU, mode) == [option.label for option in preference(mode)]


def test_narrower_capability_ranges_come_first_and_wider_ones_stay_candidates() -> None:
    def device(low: int, high: int) -> Device:
        return Device("cuda", CUDAProperties(low, high))

    ranges = {"cuda": Named("any"), device(70, 100): Named("wide"), device(90, 90): Named("exact"), device(100, 120): Named("newer")}
    assert found(KernelMapping.of({"Norm": ranges}), "Norm", H100) == ["exact", "wide", "any"]


def test_wider_range_serves_a_mode_that_the_narrow_one_lacks() -> None:
    hopper = Device("cuda", CUDAProperties(90, 90))
    mapping = KernelMapping.of({"Norm": {hopper: {Mode.INFERENCE: X}, "cuda": {Mode.TRAINING: Y}}})
    assert found(mapping, "Norm", H100, Mode.TRAINING) == ["Y"]
    assert found(mapping, "Norm", H100, Mode.INFERENCE) == ["X", "Y"]


def test_unknown_capability_matches_only_entries_for_every_device_of_the_type() -> None:
    mapping = KernelMapping.of({"Norm": {Device("cuda", CUDAProperties(0, 999)): X, "cuda": Y}})
    assert found(mapping, "Norm", replace(H100, capability=None)) == ["Y"]


def test_unmapped_layer_misses_and_the_message_names_what_is_mapped() -> None:
    miss = missed(KernelMapping.of({"Norm": {"cpu": X}, "Act": {"cpu": X}}), "Rope")
    assert (miss.code, miss.message) == ("no_mapping", "no kernel is mapped to layer name 'Rope'; mapped are: Act, Norm")


def test_unmapped_device_misses_and_the_message_names_the_mapped_ones() -> None:
    miss = missed(KernelMapping.of({"Norm": {"cuda": X, "xpu": X}}), "Norm")
    assert (miss.code, miss.message) == ("no_device", "no kernel is mapped to layer name 'Norm' for cpu, only for: cuda, xpu")


def test_rocm_is_not_served_by_kernels_for_cuda() -> None:
    assert missed(KernelMapping.of({"Norm": {"cuda": X}}), "Norm", replace(H100, device="rocm")).code == "no_device"


def test_capability_outside_every_range_misses_and_the_message_gives_both_sides() -> None:
    miss = missed(KernelMapping.of({"Norm": {Device("cuda", CUDAProperties(100, 120)): X}}), "Norm", H100)
    assert miss.code == "capability"
    assert miss.message == "the kernels mapped to layer name 'Norm' are for cuda capability 100 to 120; this device has 90"


def test_mode_without_a_kernel_misses_and_the_message_names_the_mapped_ones() -> None:
    miss = missed(KernelMapping.of({"Norm": {"cpu": {Mode.INFERENCE: X}}}), "Norm", CPU, Mode.TRAINING)
    assert miss.code == "no_mode"
    assert miss.message == "no kernel mapped to layer name 'Norm' for cpu may serve mode TRAINING, only: INFERENCE"


def test_looking_up_a_mode_that_no_model_runs_in_is_an_error() -> None:
    with pytest.raises(ValueError, match="a model cannot run in mode"):
        KernelMapping.of({"Norm": {"cpu": X}}).lookup("Norm", CPU, Mode.FALLBACK)


# How mappings merge


def test_registering_a_training_kernel_keeps_the_inference_kernel() -> None:
    register_kernel_mapping({"Norm": {"cpu": {Mode.INFERENCE: Y}}})
    register_kernel_mapping({"Norm": {"cpu": {Mode.TRAINING: X}}})
    assert found(current_mapping(), "Norm", CPU, Mode.INFERENCE) == ["Y", "X"]
    assert found(current_mapping(), "Norm", CPU, Mode.TRAINING) == ["X"]


def test_registering_one_capability_range_keeps_the_others() -> None:
    register_kernel_mapping({"Norm": {Device("cuda", CUDAProperties(90, 90)): X}})
    register_kernel_mapping({"Norm": {Device("cuda", CUDAProperties(80, 100)): Y}})
    assert found(current_mapping(), "Norm", H100) == ["X", "Y"]


_devices = st.sampled_from([Device("cpu"), Device("metal"), Device("cuda"), *(Device("cuda", CUDAProperties(low, 90)) for low in (70, 80))])
_modes = st.dictionaries(st.sampled_from(preference(Mode.INFERENCE)), st.builds(Named, st.sampled_from("ABC")))
_dicts = st.dictionaries(st.sampled_from(["Norm", "Act"]), st.dictionaries(_devices, _modes))


@settings(max_examples=60)
@given(_dicts, _dicts, _dicts)
def test_merging_is_associative(first: Any, second: Any, third: Any) -> None:
    a, b, c = (KernelMapping.of(each) for each in (first, second, third))
    assert a.merged(b).merged(c) == a.merged(b.merged(c))


@settings(max_examples=60)
@given(st.lists(_dicts, max_size=4))
def test_last_writer_wins_per_layer_device_and_mode(dicts: list[Any]) -> None:
    merged = KernelMapping.of({})
    expected: dict[str, dict[Device, dict[Mode, Named]]] = {}
    for written in dicts:
        merged = merged.merged(KernelMapping.of(written))
        for layer, devices in written.items():
            expected.setdefault(layer, {})
            for device, modes in devices.items():
                expected[layer].setdefault(device, {}).update(modes)
    assert merged == KernelMapping.of(expected)


@settings(max_examples=60)
@given(_dicts, _dicts)
def test_merging_changes_neither_of_the_two(first: Any, second: Any) -> None:
    a, b = KernelMapping.of(first), KernelMapping.of(second)
    a.merged(b)
    assert (a, b) == (KernelMapping.of(first), KernelMapping.of(second))


# Where a mapping is in force


def test_registered_mapping_is_seen_by_every_thread() -> None:
    register_kernel_mapping({"Norm": {"cpu": X}})
    assert in_a_thread(lambda: found(current_mapping(), "Norm")) == ["X"]


def test_mapping_registered_by_a_thread_is_seen_here() -> None:
    in_a_thread(lambda: register_kernel_mapping({"Norm": {"cpu": X}}))
    assert found(current_mapping(), "Norm") == ["X"]


def test_registering_without_inheriting_drops_what_was_registered() -> None:
    register_kernel_mapping({"Norm": {"cpu": X}})
    register_kernel_mapping({"Act": {"cpu": X}}, inherit_mapping=False)
    assert current_mapping().layer_names == ("Act",)


def test_invalid_mapping_registers_nothing() -> None:
    with pytest.raises(ValueError, match="unknown device type"):
        register_kernel_mapping({"Norm": {"cpu": X}, "Act": {"gpu": X}})
    assert len(current_mapping()) == 0


def test_context_adds_to_the_registered_mapping_and_is_gone_afterwards() -> None:
    register_kernel_mapping({"Norm": {"cpu": X}})
    with use_kernel_mapping({"Norm": {"cpu": Y}, "Act": {"cpu": Y}}):
        assert found(current_mapping(), "Norm") == ["Y"]
        assert "Act" in current_mapping()
    assert found(current_mapping(), "Norm") == ["X"]
    assert "Act" not in current_mapping()


def test_context_that_does_not_inherit_hides_everything_outside() -> None:
    register_kernel_mapping({"Norm": {"cpu": X}})
    with (
        use_kernel_mapping({"Act": {"cpu": X}}),
        use_kernel_mapping({"Rope": {"cpu": X}}, inherit_mapping=False),
        use_kernel_mapping({"Mlp": {"cpu": X}}),
    ):
        assert current_mapping().layer_names == ("Mlp", "Rope")


def test_registering_inside_a_context_is_seen_and_outlives_it() -> None:
    with use_kernel_mapping({"Act": {"cpu": X}}):
        register_kernel_mapping({"Norm": {"cpu": X}})
        assert current_mapping().layer_names == ("Act", "Norm")
    assert current_mapping().layer_names == ("Norm",)


def test_context_ends_with_an_exception_too() -> None:
    with pytest.raises(KeyError), use_kernel_mapping({"Norm": {"cpu": X}}):
        raise KeyError
    assert "Norm" not in current_mapping()


def test_one_context_object_can_be_entered_again_and_nested() -> None:
    context = use_kernel_mapping({"Norm": {"cpu": X}})
    for _ in range(2):
        with context:
            with use_kernel_mapping({"Norm": {"cpu": Y}}), context:
                assert found(current_mapping(), "Norm") == ["X"]
            assert found(current_mapping(), "Norm") == ["X"]
        assert "Norm" not in current_mapping()


def test_context_is_not_seen_by_other_threads() -> None:
    with use_kernel_mapping({"Norm": {"cpu": X}}):
        assert in_a_thread(lambda: "Norm" in current_mapping()) is False


def test_one_context_object_serves_several_threads_at_once() -> None:
    context = use_kernel_mapping({"Norm": {"cpu": X}})
    inside = threading.Barrier(2)

    def enter() -> tuple[bool, bool]:
        with context:
            inside.wait(timeout=60)
            during = "Norm" in current_mapping()
            inside.wait(timeout=60)
        return during, "Norm" in current_mapping()

    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(enter) for _ in range(2)]
    assert [each.result() for each in results] == [(True, False), (True, False)]


def test_async_tasks_do_not_see_each_others_contexts() -> None:
    async def task(repository: Named) -> list[str]:
        with use_kernel_mapping({"Norm": {"cpu": repository}}):
            await asyncio.sleep(0.01)
            return found(current_mapping(), "Norm")

    async def both() -> list[list[str]]:
        return await asyncio.gather(task(X), task(Y))

    assert asyncio.run(both()) == [["X"], ["Y"]]


def test_contexts_left_in_another_order_than_entered_end_one_by_one() -> None:
    @contextmanager
    def held(name: str) -> Iterator[None]:
        with use_kernel_mapping({name: {"cpu": X}}):
            yield

    first, second = held("Norm"), held("Act")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert current_mapping().layer_names == ("Act",)
    second.__exit__(None, None, None)
    assert current_mapping().layer_names == ()


def test_leaving_a_context_in_a_thread_that_did_not_enter_it_is_an_error() -> None:
    with use_kernel_mapping({"Norm": {"cpu": X}}) as context, pytest.raises(RuntimeError, match="has not entered"):
        in_a_thread(lambda: context.__exit__(None, None, None))


def test_invalid_mapping_is_refused_before_the_context_is_entered() -> None:
    with pytest.raises(TypeError, match="a kernel mapping is a dict"):
        use_kernel_mapping(None)  # type: ignore[arg-type]


def in_a_thread(work: Any) -> Any:
    """What `work()` returns, or raises, in a fresh thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()
