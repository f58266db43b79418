"""What is asked of a kernel for a call that was captured: its tensors without their values, and other values of its dynamic sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kernel_repositories import repository
from layers import Stack
from probe_cases import graph_of, probe_case_for
from torch import nn

import fxkernels
from fxkernels.admission import ProbeCase
from fxkernels.admission.probe import probe
from fxkernels.admission.probe_case import integer_highs, shrunk
from fxkernels.admission.wire import from_bytes, to_bytes
from fxkernels.kernels.call import Slot
from fxkernels.kernels.lowering import kernel_case as case_module
from fxkernels.kernels.samples import TensorSpec, specs_of

MAPPING = {"RMSNorm": {"cpu": repository("norms", "RMSNorm")}}


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The cases that are decided while a test compiles something."""
    found: list[Any] = []
    original = case_module.KernelCase.__init__

    def noted(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        found.append(self)

    monkeypatch.setattr(case_module.KernelCase, "__init__", noted)
    return found


def requested(cases: list[Any], **options: Any) -> ProbeCase:
    torch.compile(Stack(), backend=fxkernels.hubkernels(mapping=MAPPING, inner="eager"), **options)(torch.randn(3, 5, 8))
    found = ProbeCase.of(cases[0], gradient=True)
    assert isinstance(found, ProbeCase)
    return found


def test_a_captured_call_is_described_by_its_tensors(cases: list[Any]) -> None:
    case = requested(cases)
    (inputs,) = case.inputs
    assert [(spec.sizes, spec.of_layer, spec.requires_grad) for spec in inputs if isinstance(spec, TensorSpec)] == [
        ((3, 5, 8), False, False),
        ((8,), True, True),
    ]
    assert case.gradient
    assert probe(case).result == "admitted"


def test_dynamic_sizes_are_probed_small_odd_and_large(cases: list[Any]) -> None:
    case = requested(cases, dynamic=True)
    shapes = [inputs[0].sizes for inputs in case.inputs]
    assert shapes == [(3, 5, 8), (2, 2, 8), (13, 15, 8), (512, 5, 8), (3, 512, 8)]
    assert case.ranges == ((2, 512), (2, 512))
    assert probe(case).result == "admitted"


def test_a_request_survives_the_way_to_another_process(cases: list[Any]) -> None:
    case = requested(cases)
    received = from_bytes(to_bytes(case))
    assert received.inputs == case.inputs
    assert (received.args, received.tensors, received.names) == (case.args, case.tensors, case.names)
    assert received.kernel == case.kernel
    x, weight = torch.randn(3, 5, 8), torch.randn(8)
    assert torch.equal(received.reference(x, weight)[0], case.reference(x, weight)[0])


# --- sizes that can be afforded, and integers that the reference takes ------------------------------------------------------------------


class Embedding(nn.Module):
    def forward(self, ids):
        return F.embedding(ids, self.weight)


class OffByOne(nn.Module):
    def forward(self, ids):
        return F.embedding((ids + 1).clamp(max=self.weight.shape[0] - 1), self.weight)


def embedding(ids, weight):
    return F.embedding(ids, weight)


def arguments():
    return [torch.zeros(2, 5, dtype=torch.int64)], {"weight": torch.empty(11, 4).requires_grad_()}


@pytest.mark.slow
def test_indices_stay_within_what_they_index() -> None:
    ids, weight = torch.zeros(2, 50, dtype=torch.int64), torch.empty(11, 4)
    reference = graph_of(embedding, (Slot(0),), 2)
    assert integer_highs(reference, specs_of([ids, weight], {})) == {0: 11}


@pytest.mark.slow
def test_an_embedding_is_probed_with_indices_over_its_whole_range() -> None:
    ids, tensors = arguments()
    assert probe(probe_case_for(Embedding, embedding, ids, tensors)).result == "admitted"
    assert probe(probe_case_for(OffByOne, embedding, ids, tensors)).code == "numerics"


@pytest.mark.slow
def test_a_layer_that_takes_no_integers_that_were_tried_is_unprobed() -> None:
    def picky(ids, weight):
        return F.embedding(ids - 1000, weight)

    ids, tensors = arguments()
    assert probe(probe_case_for(Embedding, picky, ids, tensors)).result == "unprobed"


@pytest.mark.slow
def test_the_largest_free_size_shrinks_and_those_of_the_layer_stay() -> None:
    def norm(x, weight):
        return x.reshape(4096, 2, 64) * weight

    x, weight = torch.empty(8192, 64), torch.empty(64)
    specs = specs_of([x, weight], {}, frozenset([1]))
    found = shrunk(graph_of(lambda x, weight: x * weight, (Slot(0),), 2), specs, 4096)
    assert found is not None
    assert [spec.sizes for spec in found[1]] == [(48, 64), (64,)]
    assert shrunk(graph_of(norm, (Slot(0),), 2), specs, 4096) is None


@pytest.mark.slow
def test_rows_shrink_where_they_are_as_many_as_the_layers_numbers() -> None:
    def scale(x, weight):
        return x * weight

    reference = graph_of(scale, (Slot(0), Slot(1)), 2)
    x, weight = specs_of([torch.empty(1024, 1024), torch.empty(1024)], {}, frozenset({1}))
    found = shrunk(reference, (x, weight), 1 << 15)
    assert found is not None
    assert [spec.sizes for spec in found[1]] == [(16, 1024), (1024,)]


@pytest.mark.slow
def test_sizes_in_the_reference_shrink_with_the_inputs() -> None:
    x = torch.empty(2, 4096, 64)
    found = shrunk(graph_of(lambda x: x.view(2, 4096, 8, 8).transpose(1, 2).clone(), (Slot(0),), 1), specs_of([x], {}), 8192)
    assert found is not None
    reference, (spec,) = found
    assert reference(torch.empty(spec.sizes))[0].shape == (2, 8, spec.sizes[1], 8)


@pytest.mark.slow
def test_more_than_256_mb_are_probed_with_fewer_and_the_evidence_says_so() -> None:
    class Double(nn.Module):
        def forward(self, x):
            return x * 2

    x = torch.empty(1).expand(1 << 27)  # the metadata of half a gigabyte
    spec = torch.empty_strided((1 << 27,), (1,), device="meta")
    case = probe_case_for(Double, lambda x: x * 2, [spec], gradient=False)
    del x
    inputs = tuple(tuple(replace(s, device="cpu") for s in specs) for specs in case.inputs)
    verdict = probe(replace(case, inputs=inputs))
    assert verdict.result == "admitted"
    assert any(note.startswith("the call's 512 MB are too many to probe") for note in verdict.evidence["notes"])
