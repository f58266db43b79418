"""What a kernel demands of a call: declared by its build, and beside it in the mapping."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kernel_repositories import FOLDER, UNIVERSAL, copy_repository, repository
from loopback import LoopbackHub
from published import kernel as published
from refusals import refusal

from fxkernels import LayerRepository, LocalLayerRepository, LockedLayerRepository
from fxkernels.kernels.layer import KernelLayer
from fxkernels.target import Target

CPU = Target("cpu", None, "2.13", None, "linux", "x86_64")
NORM = FOLDER / "constrained"

MAKE: dict[str, Callable[..., Any]] = {
    "LocalLayerRepository": lambda **options: LocalLayerRepository(NORM, layer_name="FoursRMSNorm", **options),
    "LayerRepository": lambda **options: LayerRepository("acme/norms", layer_name="RMSNorm", version=1, **options),
    "LockedLayerRepository": lambda **options: LockedLayerRepository("acme/norms", layer_name="RMSNorm", **options),
}


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A build of its own that declares nothing."""
    path = copy_repository("constrained", tmp_path, f"constraints_of_{tmp_path.name}") / "build" / UNIVERSAL
    (path / "constraints.json").unlink()
    declare(path, None)
    return path


def declare(build: Path, constraints: Any) -> None:
    metadata = build / "metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"constraints": constraints}))


def loaded(build: Path, layer: str = "PairsRMSNorm", **options: Any) -> KernelLayer:
    return LocalLayerRepository(build.parent.parent, layer_name=layer, **options).load_for(CPU)


def test_build_declares_them_in_its_metadata_or_in_a_file_beside_it() -> None:
    assert repository("constrained", "FoursRMSNorm").load_for(CPU).constraints == ("dim(hidden_states, -2) % 4 == 0",)
    assert repository("constrained", "HalfRMSNorm").load_for(CPU).constraints[0] == "dtype(hidden_states) in {float16, bfloat16}"
    assert repository("constrained", "PairsRMSNorm").load_for(CPU).constraints == ()


def test_both_places_and_the_mapping_hold_together(build: Path) -> None:
    declare(build, {"PairsRMSNorm": ["ndim(hidden_states) == 3"]})
    (build / "constraints.json").write_text('{"PairsRMSNorm": ["contiguous(hidden_states)"]}')
    assert loaded(build, when="capability >= 80").constraints == (
        "ndim(hidden_states) == 3",
        "contiguous(hidden_states)",
        "capability >= 80",
    )


@pytest.mark.parametrize("place", ["metadata.json", "constraints.json"])
def test_text_that_is_no_constraint_is_refused_with_file_layer_clause_and_position(build: Path, place: str) -> None:
    texts = {"PairsRMSNorm": ["ndim(hidden_states) == 3", "dims(hidden_states, -1) == 8"]}
    if place == "metadata.json":
        declare(build, texts)
    else:
        (build / place).write_text(json.dumps(texts))
    message = refusal(lambda: loaded(build))
    assert message.startswith(f"{build / place}: constraint 2 of layer PairsRMSNorm cannot be used: constraints know no word 'dims'")
    assert "did you mean dim(x, i)?" in message
    assert "\n  dims(hidden_states, -1) == 8\n  ^ column 1\n" in message


@pytest.mark.parametrize("wrong", [["ndim(x) == 3"], "ndim(x) == 3", {"PairsRMSNorm": "ndim(x) == 3"}, {"PairsRMSNorm": [1]}])
def test_declaration_of_another_form_is_refused(build: Path, wrong: Any) -> None:
    declare(build, wrong)
    assert "key 'constraints" in refusal(lambda: loaded(build))


@pytest.mark.parametrize("content", ["[]", "{", '{"A": [], "A": []}', '{"PairsRMSNorm": NaN}'])
def test_file_that_holds_no_object_is_refused(build: Path, content: str) -> None:
    (build / "constraints.json").write_text(content)
    assert str(build / "constraints.json") in refusal(lambda: loaded(build))


def test_constraints_for_a_layer_that_is_not_there_are_refused(build: Path) -> None:
    declare(build, {"PairRMSNorm": ["ndim(hidden_states) == 3"]})
    message = refusal(lambda: loaded(build))
    assert "declares constraints for PairRMSNorm" in message
    assert "Did you mean PairsRMSNorm?" in message


def test_declared_constraints_are_covered_by_the_digests(hub: LoopbackHub, client: Any) -> None:
    hub.add("acme/norms", published(digests=True, more={"constraints.json": '{"RMSNorm": ["ndim(hidden_states) == 3"]}'}))
    norms = MAKE["LayerRepository"]()
    kernel = norms.load_for(CPU)
    assert kernel.constraints == ("ndim(hidden_states) == 3",)
    (file,) = client.folder("acme/norms").rglob("constraints.json")
    file.unlink()
    file.write_text("{}")
    assert "constraints.json" in refusal(lambda: norms.load_for(CPU), "digest")
