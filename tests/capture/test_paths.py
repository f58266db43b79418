"""From modules to their paths."""

from __future__ import annotations

import gc
import weakref

import torch
from layers import Block, Norm, Stack
from torch import nn

from fxkernels.annotate import Annotation
from fxkernels.capture.paths import ModulePaths


class Overriding(Norm):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states


def test_modules_below_a_root_have_their_paths() -> None:
    model, paths = Stack(2), ModulePaths()
    paths.add_root(model)
    assert [paths.get(model), paths.get(model.norm), paths.get(model.blocks[1].norm)] == ["", "norm", "blocks.1.norm"]


def test_module_of_no_known_root_has_no_path() -> None:
    paths = ModulePaths()
    paths.add_root(Stack())
    assert paths.get(Norm()) is None


def test_child_that_is_compiled_on_its_own_keeps_its_path() -> None:
    model, paths = Stack(), ModulePaths()
    paths.add_root(model)
    paths.add_root(model.blocks[0])
    assert paths.get(model.blocks[0].norm) == "blocks.0.norm"


def test_child_that_came_first_is_a_root_of_its_own() -> None:
    model, paths = Stack(), ModulePaths()
    paths.add_root(model.blocks[0])
    paths.add_root(model)
    assert [paths.get(model.blocks[0].norm), paths.get(model.blocks[1].norm)] == ["norm", "blocks.1.norm"]


def test_module_that_stands_at_two_places_has_the_first_path() -> None:
    norm = Norm()
    paths = ModulePaths()
    paths.add_root(nn.Sequential(norm, nn.Linear(8, 8), norm))
    assert paths.get(norm) == "0"


def test_path_may_be_given_by_hand() -> None:
    norm, paths = Norm(), ModulePaths()
    paths.put(norm, "encoder.norm")
    assert (paths.get(norm), paths.annotated) == ("encoder.norm", {"encoder.norm": (Annotation("RMSNorm"), False)})


def test_annotated_modules_are_listed_with_their_layer_names() -> None:
    paths = ModulePaths()
    paths.add_root(Stack(1))
    assert paths.annotated == {"blocks.0.norm": (Annotation("RMSNorm"), False), "norm": (Annotation("RMSNorm"), False)}


def test_subclass_that_overrides_the_annotated_forward_is_listed_as_such() -> None:
    paths = ModulePaths()
    paths.add_root(nn.Sequential(Overriding()))
    assert paths.annotated == {"0": (Annotation("RMSNorm"), True)}


def test_list_of_annotated_modules_is_a_copy() -> None:
    paths = ModulePaths()
    paths.add_root(Block())
    paths.annotated.clear()
    assert list(paths.annotated) == ["norm"]


def test_no_model_is_kept_alive() -> None:
    model, paths = Stack(), ModulePaths()
    paths.add_root(model)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None
    assert "norm" in paths.annotated
