"""Integers get values that the layer takes, and too many elements become fewer of the same kind."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from probe_requests import graph_of, request_for
from torch import nn

from fxkernels.admission.probe import probe
from fxkernels.admission.request import specs_of
from fxkernels.admission.sizes import integer_highs, shrunk
from fxkernels.kernels.call import Slot

pytestmark = pytest.mark.slow


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


def test_indices_stay_within_what_they_index() -> None:
    ids, weight = torch.zeros(2, 50, dtype=torch.int64), torch.empty(11, 4)
    reference = graph_of(embedding, (Slot(0),), 2)
    assert integer_highs(reference, specs_of([ids, weight], {})) == {0: 11}


def test_an_embedding_is_probed_with_indices_over_its_whole_range() -> None:
    ids, tensors = arguments()
    assert probe(request_for(Embedding, embedding, ids, tensors)).result == "admitted"
    assert probe(request_for(OffByOne, embedding, ids, tensors)).code == "numerics"


def test_a_layer_that_takes_no_integers_that_were_tried_is_unprobed() -> None:
    def picky(ids, weight):
        return F.embedding(ids - 1000, weight)

    ids, tensors = arguments()
    assert probe(request_for(Embedding, picky, ids, tensors)).result == "unprobed"


def test_the_largest_free_size_shrinks_and_those_of_the_layer_stay() -> None:
    def norm(x, weight):
        return x.reshape(4096, 2, 64) * weight

    x, weight = torch.empty(8192, 64), torch.empty(64)
    specs = specs_of([x, weight], {}, frozenset([1]))
    found = shrunk(graph_of(lambda x, weight: x * weight, (Slot(0),), 2), specs, 4096)
    assert found is not None
    assert [spec.sizes for spec in found[1]] == [(48, 64), (64,)]
    assert shrunk(graph_of(norm, (Slot(0),), 2), specs, 4096) is None


def test_rows_shrink_where_they_are_as_many_as_the_layers_numbers() -> None:
    def scale(x, weight):
        return x * weight

    reference = graph_of(scale, (Slot(0), Slot(1)), 2)
    x, weight = specs_of([torch.empty(1024, 1024), torch.empty(1024)], {}, frozenset({1}))
    found = shrunk(reference, (x, weight), 1 << 15)
    assert found is not None
    assert [spec.sizes for spec in found[1]] == [(16, 1024), (1024,)]


def test_sizes_in_the_reference_shrink_with_the_inputs() -> None:
    x = torch.empty(2, 4096, 64)
    found = shrunk(graph_of(lambda x: x.view(2, 4096, 8, 8).transpose(1, 2).clone(), (Slot(0),), 1), specs_of([x], {}), 8192)
    assert found is not None
    reference, (spec,) = found
    assert reference(torch.empty(spec.sizes))[0].shape == (2, 8, spec.sizes[1], 8)


def test_more_than_256_mb_are_probed_with_fewer_and_the_evidence_says_so() -> None:
    class Double(nn.Module):
        def forward(self, x):
            return x * 2

    x = torch.empty(1).expand(1 << 27)  # the metadata of half a gigabyte
    spec = torch.empty_strided((1 << 27,), (1,), device="meta")
    request = request_for(Double, lambda x: x * 2, [spec], gradient=False)
    del x
    cases = tuple(tuple(type(s)(s.dtype, s.sizes, s.strides) for s in case) for case in request.cases)
    verdict = probe(type(request)(**{**{f: getattr(request, f) for f in request.__dataclass_fields__}, "cases": cases}))
    assert verdict.result == "admitted"
    assert any(note.startswith("the call's 512 MB are too many to probe") for note in verdict.evidence["notes"])
