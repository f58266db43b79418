"""Local kernel repositories, from the value in a mapping to the layer's class."""

from __future__ import annotations

import colorsys
import os
import pickle
import sys

import pytest
import torch
from kernel_repositories import FOLDER, copy_repository, repository
from torch import nn

from fxkernels.errors import RepositoryError
from fxkernels.hub import LocalLayerRepository
from fxkernels.target import Target

CPU = Target("cpu", None, "2.13", None, "linux", "x86_64")


def refusal(repo: LocalLayerRepository, target: Target = CPU) -> RepositoryError:
    with pytest.raises(RepositoryError) as caught:
        repo.load_for(target)
    return caught.value


def test_layer_is_loaded_for_this_machine():
    cls = repository("norms", "RMSNorm").load()
    assert issubclass(cls, nn.Module)
    assert cls.__name__ == "RMSNorm"


def test_layer_is_loaded_for_a_target_with_its_identity():
    kernel = repository("norms", "InferenceRMSNorm").load_for(CPU)
    assert kernel.has_backward is False
    assert str(kernel.identity) == "norms:InferenceRMSNorm"
    assert kernel.identity.variant == "torch-universal"


def test_layers_of_one_repository_come_from_one_module():
    one, two = repository("norms", "RMSNorm").load(), repository("norms", "EpsRMSNorm").load()
    assert sys.modules[one.__module__] is sys.modules[two.__module__]


def test_repositories_with_the_same_path_and_layer_are_equal_and_hash_alike():
    one, two = (
        LocalLayerRepository(FOLDER / "norms", layer_name="RMSNorm"),
        LocalLayerRepository(str(FOLDER / "norms"), layer_name="RMSNorm"),
    )
    assert one == two
    assert len({one, two}) == 1
    assert one != LocalLayerRepository(FOLDER / "norms", layer_name="EpsRMSNorm")


def test_repository_survives_pickling():
    repo = repository("norms", "RMSNorm")
    assert pickle.loads(pickle.dumps(repo)) == repo


def test_making_a_repository_of_a_path_that_does_not_exist_is_no_error(tmp_path):
    LocalLayerRepository(tmp_path / "nowhere", layer_name="RMSNorm")


def test_relative_path_keeps_its_meaning_when_the_directory_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(FOLDER)
    repo = LocalLayerRepository("norms", layer_name="RMSNorm")
    monkeypatch.chdir(tmp_path)
    assert repo.path == FOLDER / "norms"
    assert os.path.samefile(repo.load_for(CPU).cls.forward.__code__.co_filename, FOLDER / "norms/build/torch-universal/layers.py")


def test_layer_name_that_is_no_name_is_refused_at_once():
    with pytest.raises(ValueError, match="layer_name='layers/RMSNorm'"):
        LocalLayerRepository("norms", layer_name="layers/RMSNorm")


def test_path_that_does_not_exist_is_named(tmp_path):
    error = refusal(LocalLayerRepository(tmp_path / "nowhere", layer_name="RMSNorm"))
    assert error.code == "load_error"
    assert f"{tmp_path / 'nowhere'} is not a directory" in str(error)


def test_path_without_build_is_named_with_the_layout_that_is_expected():
    error = refusal(repository("broken-no-build", "RMSNorm"))
    assert error.code == "load_error"
    assert f"{FOLDER / 'broken-no-build'} has no build/ directory" in str(error)
    assert "build/<variant>/" in str(error).replace("<repository>/", "")
    assert "metadata.json" in str(error)


def test_repository_without_a_fitting_build_names_the_reason_for_each():
    error = refusal(repository("other-machine", "RMSNorm"))
    assert error.code == "no_variant"
    assert "torch-cuda: for cuda, the target is cpu" in str(error)
    assert "torch29-cxx11-cpu-x86_64-linux: built for torch 2.9, this is 2.13" in str(error)


def test_repository_with_an_empty_build_says_what_is_expected(tmp_path):
    (tmp_path / "build").mkdir()
    error = refusal(LocalLayerRepository(tmp_path, layer_name="RMSNorm"))
    assert error.code == "no_variant"
    assert "build/ is empty" in str(error)


def test_failed_import_leaves_no_half_imported_module():
    error = refusal(repository("broken-import", "RMSNorm"))
    assert error.code == "load_error"
    assert str(FOLDER / "broken-import/build/torch-universal/layers.py") + ":3" in str(error)
    assert isinstance(error.__cause__, ModuleNotFoundError)
    assert [name for name in sys.modules if name.startswith("fxtest_broken_import")] == []


def test_failed_import_can_be_retried_after_the_file_was_mended(tmp_path):
    path = copy_repository("broken-import", tmp_path, "repository_mended")
    repo = LocalLayerRepository(path, layer_name="RMSNorm")
    refusal(repo)
    layers = path / "build/torch-universal/layers.py"
    layers.write_text(layers.read_text().replace("import a_package_that_does_not_exist", ""))
    assert repo.load_for(CPU).cls.__name__ == "RMSNorm"


def test_missing_metadata_key_is_named():
    error = refusal(repository("broken-metadata", "RMSNorm"))
    assert error.code == "load_error"
    assert "'license'" in str(error)


def test_repository_with_the_id_of_a_standard_library_module_does_not_replace_it():
    error = refusal(repository("broken-id", "RMSNorm"))
    assert "'colorsys'" in str(error)
    assert sys.modules["colorsys"] is colorsys
    assert colorsys.rgb_to_hsv(1, 0, 0) == (0.0, 1.0, 1.0)


def test_unknown_layer_is_answered_with_the_layers_there_are_and_the_nearest_name():
    error = refusal(repository("norms", "RMSNrom"))
    assert error.code == "load_error"
    assert f"{FOLDER / 'norms'} has no layer RMSNrom" in str(error)
    assert "CountedRMSNorm, DetachedRMSNorm, EpsRMSNorm" in str(error)
    assert "Did you mean RMSNorm?" in str(error)


def test_layers_listed_in_an_error_are_only_the_repositorys_own():
    assert "Module" not in str(refusal(repository("activations", "Nothing"))).replace("NoModule", "")


def test_function_in_the_place_of_a_layer_is_refused():
    assert "has a function, not a class, for the layer a_function" in str(refusal(repository("broken", "a_function")))


def test_build_without_a_layers_module_is_refused(tmp_path):
    path = copy_repository("norms", tmp_path, "repository_without_layers")
    (path / "build/torch-universal/__init__.py").write_text("")
    assert "has no layers" in str(refusal(LocalLayerRepository(path, layer_name="RMSNorm")))


def test_two_builds_with_different_ids_are_two_classes_in_one_process(tmp_path):
    copy = LocalLayerRepository(copy_repository("norms", tmp_path, "repository_second_build"), layer_name="RMSNorm").load_for(CPU)
    ours = repository("norms", "RMSNorm").load_for(CPU)
    assert copy.cls is not ours.cls
    layer = nn.Module()
    layer.weight, layer.variance_epsilon = nn.Parameter(torch.ones(4)), 1e-6
    x = torch.randn(2, 4)
    assert torch.equal(copy.cls.forward(layer, x), ours.cls.forward(layer, x))
