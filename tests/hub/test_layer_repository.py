"""LayerRepository, a value of a mapping, and what it loads."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kernel_repositories import FOLDER, copy_repository
from published import UNIVERSAL, kernel

import fxkernels
from fxkernels.errors import RepositoryError
from fxkernels.hub import LayerRepository, LocalLayerRepository, LockedLayerRepository, forget_resolved
from fxkernels.kernels.layer import KernelLayer, load_kernel_layer
from fxkernels.target import Target

CPU = Target.parse("cpu torch2.13")
H100 = Target.parse("cuda:sm90 torch2.13 cu130 linux-x86_64")


@pytest.fixture(autouse=True)
def fresh() -> None:
    forget_resolved()


def norms(**options) -> LayerRepository:
    return LayerRepository(
        "acme/norms", layer_name="RMSNorm", **(options if {"version", "revision"} & options.keys() else {"version": 1, **options})
    )


def refusal(repository, target: Target = CPU) -> RepositoryError:
    with pytest.raises(RepositoryError) as caught:
        repository.load_for(target)
    return caught.value


# --- the value ---------------------------------------------------------------------------------------------------------------------------


def test_making_one_asks_for_nothing(hub, client):
    norms()
    assert hub.requests == []
    assert not client.cache.exists()


def test_value_is_compared_hashed_copied_and_pickled_by_what_it_says():
    one, same, other = norms(trust_remote_code=["acme/norms"]), norms(trust_remote_code=("acme/norms",)), norms()
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one


def test_value_cannot_be_changed():
    with pytest.raises(AttributeError):
        norms().version = 2


@pytest.mark.parametrize("state", [{}, {"version": 1, "revision": "main"}], ids=["neither", "both"])
def test_exactly_one_of_version_and_revision_is_given(state):
    with pytest.raises(ValueError, match="give one of the two"):
        LayerRepository("acme/norms", layer_name="RMSNorm", **state)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"repo_id": "norms"}, ValueError),
        ({"repo_id": "../norms"}, ValueError),
        ({"layer_name": "RMS-Norm"}, ValueError),
        ({"version": -1}, ValueError),
        ({"version": True}, ValueError),
        ({"version": "1"}, ValueError),
        ({"version": None, "revision": "../../x"}, ValueError),
        ({"trust_remote_code": "acme/norms"}, TypeError),
        ({"trust_remote_code": 1}, TypeError),
    ],
)
def test_mistake_in_an_argument_is_found_when_the_value_is_made(wrong, error):
    arguments = {"repo_id": "acme/norms", "layer_name": "RMSNorm", "version": 1, **wrong}
    with pytest.raises(error):
        LayerRepository(arguments.pop("repo_id"), **arguments)


def test_it_is_part_of_the_public_api():
    assert fxkernels.LayerRepository is LayerRepository


# --- loading -----------------------------------------------------------------------------------------------------------------------------


def test_layer_is_loaded_with_its_identity(hub, client):
    commit = hub.add("acme/norms", kernel(value="from the Hub"))
    layer = norms().load_for(CPU)
    assert layer.cls.VALUE == "from the Hub"
    assert (layer.identity.repository, layer.identity.revision, layer.identity.variant) == ("acme/norms", commit, UNIVERSAL)
    assert str(layer.identity) == f"acme/norms@{commit[:7]}:RMSNorm"


def test_layer_is_loaded_for_this_machine(hub, client):
    hub.add("acme/norms", kernel())
    assert norms().load().__name__ == "RMSNorm"


def test_two_versions_live_side_by_side(hub, client):
    hub.add("acme/norms", kernel(value=1))
    hub.add("acme/norms", kernel(value=2), version=2)
    one, two = norms(version=1).load(), norms(version=2).load()
    assert (one.VALUE, two.VALUE) == (1, 2)
    assert norms(version=1).load() is one


def test_older_layout_with_a_package_in_the_variant_is_loaded(hub, client):
    files = {path.replace(f"{UNIVERSAL}/", f"{UNIVERSAL}/norms/", path.endswith(".py")): text for path, text in kernel(value=7).items()}
    hub.add("acme/norms", files)
    assert f"build/{UNIVERSAL}/norms/layers.py" in files
    assert norms().load_for(CPU).cls.VALUE == 7


def test_layer_that_is_not_there_is_an_error_that_names_those_that_are(hub, client):
    hub.add("acme/norms", kernel())
    error = refusal(LayerRepository("acme/norms", layer_name="RMSNorn", version=1))
    assert error.code == "load_error"
    assert "acme/norms@" in str(error)
    assert "Did you mean RMSNorm?" in str(error)


def test_no_build_for_the_target_names_each_and_why(hub, client):
    hub.add("acme/norms", kernel("torch-cpu") | kernel("torch29-cxx11-cu126-x86_64-linux"))
    error = refusal(norms(), H100)
    assert error.code == "no_variant"
    assert "torch-cpu: for cpu, the target is cuda" in str(error)
    assert "torch29-cxx11-cu126-x86_64-linux: built for torch 2.9, this is 2.13" in str(error)


def test_missing_python_package_is_found_before_the_code_is_downloaded(hub, client):
    hub.add("acme/norms", kernel(metadata={"python-depends": ["a-package-nobody-has>=2"]}))
    error = refusal(norms())
    assert error.code == "load_error"
    assert "a-package-nobody-has" in str(error)
    assert hub.downloads() == [f"build/{UNIVERSAL}/metadata.json"]


def test_code_of_an_untrusted_publisher_is_not_downloaded(hub, client):
    hub.add("acme/norms", kernel(), trusted=False)
    assert refusal(norms()).code == "untrusted"
    assert hub.downloads() == []
    assert not [request for request in hub.requests if "/tree/" in request.path]


@pytest.mark.parametrize("trust", [True, ["acme/norms"]], ids=["everything", "a-list"])
def test_code_of_an_untrusted_publisher_runs_where_the_user_says_so(hub, client, trust):
    hub.add("acme/norms", kernel(), trusted=False)
    assert norms(trust_remote_code=trust).load_for(CPU).cls.VALUE == 1


def test_digests_of_the_metadata_are_checked(hub, client):
    hub.add("acme/norms", {**kernel(digests=True), f"build/{UNIVERSAL}/layers.py": b"EVIL = 1"})
    error = refusal(norms())
    assert error.code == "digest"
    assert "layers.py" in str(error)


def test_failed_import_leaves_no_trace_and_the_next_version_works(hub, client):
    broken = kernel(more={"layers.py": "1 / 0"})
    hub.add("acme/norms", broken)
    error = refusal(norms())
    assert "ZeroDivisionError" in str(error)
    assert json.loads(broken[f"build/{UNIVERSAL}/metadata.json"])["id"] not in sys.modules
    hub.add("acme/norms", kernel(), version=2)
    assert norms(version=2).load_for(CPU).cls.VALUE == 1


# --- kernels that depend on kernels ------------------------------------------------------------------------------------------------------

ASKS = (
    "from fxkernels import get_kernel_dep\nfrom . import layers\nlayers.RMSNorm.VALUE = get_kernel_dep('acme/base').layers.RMSNorm.VALUE\n"
)


def depends(repo_id: str = "acme/base", **state) -> dict[str, object]:
    return {"kernel-depends": [{"repo-id": repo_id, **(state or {"version": 1})}]}


def test_kernel_that_it_depends_on_is_loaded_first(hub, client):
    hub.add("acme/base", kernel(value="from the base"))
    hub.add("acme/norms", kernel(metadata=depends(), more={"__init__.py": ASKS}))
    assert norms().load_for(CPU).cls.VALUE == "from the base"


def test_kernel_that_it_depends_on_needs_trust_of_its_own(hub, client):
    hub.add("mallory/base", kernel(), trusted=False)
    hub.add("acme/norms", kernel(metadata=depends("mallory/base")))
    error = refusal(norms())
    assert error.code == "untrusted"
    assert "needed by acme/norms@" in str(error)
    assert [path for path in hub.downloads() if not path.endswith("metadata.json") and "mallory" in path] == []
    assert norms(trust_remote_code=["mallory/base"]).load_for(CPU).cls.VALUE == 1


def test_kernels_that_depend_on_each_other_are_an_error_that_shows_the_circle(hub, client):
    hub.add("acme/base", kernel(metadata=depends("acme/norms")))
    hub.add("acme/norms", kernel(metadata=depends()))
    error = refusal(norms())
    assert error.code == "load_error"
    assert "in a circle: acme/norms@" in str(error)


@pytest.mark.slow
def test_pinned_kernel_with_a_pinned_dependency_is_loaded_offline_without_a_request(hub, client, monkeypatch):
    base = hub.add("acme/base", kernel(value="pinned"))
    commit = hub.add("acme/norms", kernel(metadata=depends(revision=base), more={"__init__.py": ASKS}))
    script = f"from fxkernels import LayerRepository as R\nprint(R('acme/norms', layer_name='RMSNorm', revision={commit!r}).load().VALUE)"
    assert client.run(script).stdout == "pinned\n"
    hub.requests.clear()
    assert client.run(script).stdout == "pinned\n"
    assert client.run(script, HF_HUB_OFFLINE="1").stdout == "pinned\n"
    assert hub.requests == []


def test_local_repository_gets_what_it_depends_on_from_the_hub(hub, client, tmp_path):
    hub.add("acme/base", kernel(value="from the Hub"))
    for path, content in kernel(metadata=depends(), more={"__init__.py": ASKS}).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    assert LocalLayerRepository(tmp_path, layer_name="RMSNorm").load_for(CPU).cls.VALUE == "from the Hub"


# --- local overrides ---------------------------------------------------------------------------------------------------------------------


def test_local_override_takes_the_place_of_the_hub_and_the_identity_says_so(hub, client, tmp_path, monkeypatch):
    path = copy_repository("norms", tmp_path, "layer_repository_override")
    monkeypatch.setenv("FXKERNELS_LOCAL", f"acme/norms={path}")
    layer = norms().load_for(CPU)
    assert (layer.identity.repository, layer.identity.revision, layer.identity.override) == ("acme/norms", None, str(path))
    assert "local override" in str(layer.identity)
    assert hub.requests == []


def test_local_override_of_a_dependency_is_used(hub, client, tmp_path, monkeypatch):
    for path, content in kernel(value="mine").items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    monkeypatch.setenv("FXKERNELS_LOCAL", f"acme/base={tmp_path}")
    hub.add("acme/norms", kernel(metadata=depends(), more={"__init__.py": ASKS}))
    assert norms().load_for(CPU).cls.VALUE == "mine"


# --- other processes, and time -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_loaded_layer_can_be_sent_to_another_process(hub, client, tmp_path):
    commit = hub.add("acme/norms", kernel(value="sent"))
    layer = load_kernel_layer(norms(revision=commit), CPU)
    (tmp_path / "layer").write_bytes(pickle.dumps(layer))
    script = f"import pickle\nprint(pickle.loads(open({str(tmp_path / 'layer')!r}, 'rb').read()).cls.VALUE)"
    assert isinstance(layer, KernelLayer)
    assert client.run(script, HF_HUB_OFFLINE="1").stdout == "sent\n"


@pytest.mark.slow
def test_cache_that_was_copied_to_another_machine_is_used_there(hub, client, tmp_path):
    commit = hub.add("acme/norms", kernel())
    norms().load_for(CPU)
    hub.stop()
    shutil.copytree(client.home, tmp_path / "copy", symlinks=True)
    states = [{"version": 1}, {"revision": commit}, {"revision": commit[:8]}, {"revision": "v1"}]
    script = f"""
from fxkernels import LayerRepository
for state in {states!r}:
    print(LayerRepository("acme/norms", layer_name="RMSNorm", **state).load().VALUE)
"""
    result = client.run(script, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "copy"))
    assert (result.stdout, result.stderr) == ("1\n" * 4, "")


def test_directories_of_local_repositories_are_not_links(tmp_path):
    (tmp_path / "build").mkdir()
    (tmp_path / "build/torch-cpu").symlink_to(Path(FOLDER / "norms/build/torch-universal"))
    assert "link" in str(refusal(LocalLayerRepository(tmp_path, layer_name="RMSNorm")))


# --- when= -----------------------------------------------------------------------------------------------------------------------------

NORM = FOLDER / "constrained"
MAKE: dict[str, Callable[..., Any]] = {
    "LocalLayerRepository": lambda **options: LocalLayerRepository(NORM, layer_name="FoursRMSNorm", **options),
    "LayerRepository": lambda **options: LayerRepository("acme/norms", layer_name="RMSNorm", version=1, **options),
    "LockedLayerRepository": lambda **options: LockedLayerRepository("acme/norms", layer_name="RMSNorm", **options),
}


@pytest.mark.parametrize("kind", MAKE)
def test_when_is_one_text_or_several_and_part_of_the_value(kind: str) -> None:
    make = MAKE[kind]
    one, several = make(when="capability >= 80"), make(when=["capability >= 80"])
    assert one == several
    assert one.when == ("capability >= 80",)
    assert one != make()
    assert len({one, several, make(), pickle.loads(pickle.dumps(one)), copy.deepcopy(one)}) == 2


@pytest.mark.parametrize("kind", MAKE)
def test_when_that_is_no_constraint_is_refused_at_once(kind: str) -> None:
    with pytest.raises(ValueError, match=r"when= has a text that is no constraint: constraints know no word 'dims'"):
        MAKE[kind](when=["capability >= 80", "dims(x, -1) == 8"])
    for wrong in (8, [8], None):
        with pytest.raises(TypeError, match="when= is a constraint such as"):
            MAKE[kind](when=wrong)


def test_constraints_survive_on_the_way_to_another_process() -> None:
    kernel = load_kernel_layer(MAKE["LocalLayerRepository"](when="capability >= 80"), CPU)
    assert pickle.loads(pickle.dumps(kernel)).constraints == kernel.constraints == ("dim(hidden_states, -2) % 4 == 0", "capability >= 80")


def test_kernels_with_other_constraints_are_other_kernels() -> None:
    one, other = MAKE["LocalLayerRepository"]().load_for(CPU), MAKE["LocalLayerRepository"](when="capability >= 80").load_for(CPU)
    assert one != other
    assert one.cls is other.cls
