"""Kernels that depend on kernels: found first, imported from the bottom up, all or none."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import ModuleType

import pytest
from kernel_builds import left_in_process, published, written

from fxkernels.errors import RepositoryError
from fxkernels.hub import RepositoryRequest
from fxkernels.hub.builds.metadata import read_metadata
from fxkernels.hub.importing.importer import Build, import_build

COMMIT = "9a31f0c" + "0" * 33
ASK = "from kernels import get_kernel_dep\n"


class Shelf:
    """Kernel repositories that a test writes, and the requests for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.builds: dict[str, Build] = {}
        self.requests: list[str] = []

    def add(self, repo_id: str, text: str = "", *depends: str, layout: str = "", module_id: str = "", commit: str = COMMIT) -> Build:
        """Write a build that depends on version 1 of each of `depends`."""
        module_id = module_id or repo_id.replace("/", "_")
        metadata = {
            "name": repo_id.partition("/")[2],
            "id": module_id,
            "version": 1,
            "license": "apache-2.0",
            "python-depends": [],
            "backend": {"type": "cpu"},
            "kernel-depends": [{"repo-id": other, "version": 1} for other in depends],
        }
        files = {"metadata.json": json.dumps(metadata), f"{layout}__init__.py": text}
        directory = written(self.folder / f"{module_id}-{commit[:7]}" / "torch-cpu", files)
        self.builds[repo_id] = Build(repo_id, commit, directory, read_metadata(directory), published(directory))
        return self.builds[repo_id]

    def find(self, dependency: RepositoryRequest) -> Build:
        self.requests.append(str(dependency))
        if dependency.repo_id not in self.builds:
            raise RepositoryError("untrusted", f"{dependency} comes from nobody you trust")
        return self.builds[dependency.repo_id]

    def load(self, repo_id: str) -> ModuleType:
        return import_build(self.builds[repo_id], self.find)

    def refusal(self, repo_id: str, code: str = "load_error") -> str:
        with pytest.raises(RepositoryError) as caught:
            self.load(repo_id)
        assert caught.value.code == code
        return str(caught.value)


@pytest.fixture
def shelf(tmp_path) -> Shelf:
    return Shelf(tmp_path)


def test_dependency_is_imported_first_and_handed_to_its_dependant(shelf):
    shelf.add("tree/base1", "V = 1")
    shelf.add("tree/top1", f"{ASK}base = get_kernel_dep('tree/base1')", "tree/base1")
    module = shelf.load("tree/top1")
    assert module.base.V == 1
    assert module.base.__name__ == "tree_base1"
    assert shelf.requests == ["tree/base1@v1"]


def test_dependency_of_a_dependency_is_visible_to_that_one_only(shelf):
    shelf.add("tree/low2", "V = 1")
    shelf.add("tree/mid2", f"{ASK}low = get_kernel_dep('tree/low2')", "tree/low2")
    shelf.add("tree/top2", f"{ASK}mid = get_kernel_dep('tree/mid2')", "tree/mid2")
    assert shelf.load("tree/top2").mid.low.V == 1
    shelf.add("tree/nosy2", f"{ASK}get_kernel_dep('tree/mid2')\nget_kernel_dep('tree/low2')", "tree/mid2")
    assert "tree/nosy2@9a31f0c asks for the kernel 'tree/low2', on which it does not declare to depend" in shelf.refusal("tree/nosy2")


def test_kernel_that_two_others_need_is_one_module(shelf):
    shelf.add("tree/low3", "V = object()")
    for name in ("tree/left3", "tree/right3"):
        shelf.add(name, f"{ASK}V = get_kernel_dep('tree/low3').V", "tree/low3")
    shelf.add("tree/top3", f"{ASK}same = get_kernel_dep('tree/left3').V is get_kernel_dep('tree/right3').V", "tree/left3", "tree/right3")
    assert shelf.load("tree/top3").same


def test_kernel_that_is_imported_is_not_looked_for_again(shelf):
    shelf.add("tree/base4")
    shelf.add("tree/top4", "", "tree/base4")
    module = shelf.load("tree/top4")
    shelf.requests.clear()
    assert shelf.load("tree/top4") is module
    assert shelf.requests == []


def test_dependency_in_the_older_layout_is_imported(shelf):
    shelf.add("tree/older5", "V = 5", layout="older5/")
    shelf.add("tree/top5", f"{ASK}V = get_kernel_dep('tree/older5').V", "tree/older5")
    assert shelf.load("tree/top5").V == 5


def test_cycle_is_an_error_that_shows_it_and_runs_nothing(shelf):
    shelf.add("tree/a6", "raise AssertionError('was run')", "tree/b6")
    shelf.add("tree/b6", "raise AssertionError('was run')", "tree/c6")
    shelf.add("tree/c6", "raise AssertionError('was run')", "tree/a6")
    message = shelf.refusal("tree/a6")
    assert "tree/a6@9a31f0c -> tree/b6@9a31f0c -> tree/c6@9a31f0c -> tree/a6@9a31f0c" in message
    assert left_in_process("tree_a6") == left_in_process("tree_b6") == []


def test_kernel_that_depends_on_itself_is_a_cycle(shelf):
    shelf.add("tree/self7", "", "tree/self7")
    assert "in a circle: tree/self7@9a31f0c -> tree/self7@9a31f0c" in shelf.refusal("tree/self7")


def test_kernel_may_depend_on_an_older_commit_of_itself(shelf):
    old = shelf.add("tree/history8", "V = 'old'", module_id="tree_history8_old", commit="0" * 40)
    new = shelf.add("tree/history8", f"{ASK}V = get_kernel_dep('tree/history8').V", "tree/history8")
    assert import_build(new, lambda dependency: old).V == "old"


def test_dependency_that_cannot_be_found_keeps_its_code_and_names_who_needs_it_and_runs_nothing(shelf):
    shelf.add("tree/base9", "raise AssertionError('was run')")
    shelf.add("tree/mid9", "raise AssertionError('was run')", "tree/base9", "evil/gone")
    shelf.add("tree/top9", "raise AssertionError('was run')", "tree/mid9")
    message = shelf.refusal("tree/top9", "untrusted")
    assert "evil/gone@v1 comes from nobody you trust" in message
    assert "needed by tree/mid9@9a31f0c, which is needed by tree/top9@9a31f0c" in message


def test_dependency_that_fails_names_its_line_and_who_needs_it_and_leaves_nothing(shelf):
    shelf.add("tree/fine10", "V = 1")
    broken = shelf.add("tree/broken10", "V = 1\n1/0")
    shelf.add("tree/mid10", "", "tree/fine10", "tree/broken10")
    shelf.add("tree/top10", "", "tree/mid10")
    message = shelf.refusal("tree/top10")
    assert "tree/broken10@9a31f0c cannot be imported: ZeroDivisionError" in message
    assert f"{broken.directory / '__init__.py'}:2" in message
    assert message.endswith("needed by tree/mid10@9a31f0c, which is needed by tree/top10@9a31f0c")
    assert [left_in_process(f"tree_{name}10") for name in ("fine", "broken", "mid", "top")] == [[], [], [], []]


def test_dependant_that_fails_takes_the_dependencies_along_and_a_retry_works(shelf):
    shelf.add("tree/base11", "from pathlib import Path\nV = 1")
    shelf.add("tree/top11", "1/0", "tree/base11")
    assert "needed by" not in shelf.refusal("tree/top11")
    assert left_in_process("tree_base11") == []
    shelf.add("tree/top11", f"{ASK}V = get_kernel_dep('tree/base11').V", "tree/base11")
    assert shelf.load("tree/top11").V == 1


def test_dependant_that_fails_leaves_a_dependency_that_was_in_use_before(shelf):
    shelf.add("tree/base12", "V = 1")
    shelf.add("tree/top12", "1/0", "tree/base12")
    base = shelf.load("tree/base12")
    shelf.refusal("tree/top12")
    assert left_in_process("tree_base12") == ["tree_base12"]
    assert shelf.load("tree/base12") is base


def test_dependency_that_was_changed_after_it_was_verified_is_not_run(shelf):
    base = shelf.add("tree/base13", "V = 1")
    shelf.add("tree/top13", "", "tree/base13")
    (base.directory / "__init__.py").write_text("raise AssertionError('changed code was run')")
    message = shelf.refusal("tree/top13", "digest")
    assert "tree/base13@9a31f0c is not the build that was published" in message
    assert "needed by tree/top13@9a31f0c" in message


def test_two_kernels_with_one_id_name_both(shelf):
    base = shelf.add("tree/base14", "", module_id="tree_same14")
    top = shelf.add("tree/top14", "", "tree/base14", module_id="tree_same14", commit="1" * 40)
    message = shelf.refusal("tree/top14")
    assert str(base.directory) in message
    assert str(top.directory) in message
    assert left_in_process("tree_same14") == []


def test_threads_that_load_dependants_of_one_kernel_at_once_share_it(shelf):
    shelf.add("tree/low15", "import time\ntime.sleep(0.1)\nV = object()")
    for number in range(8):
        failing = "1/0" if number % 2 else ""
        shelf.add(f"tree/top15_{number}", f"{ASK}V = get_kernel_dep('tree/low15').V\n{failing}", "tree/low15")
    gate = threading.Barrier(8)
    found: dict[int, object] = {}

    def load(number: int) -> None:
        gate.wait()
        if number % 2:
            shelf.refusal(f"tree/top15_{number}")
        else:
            found[number] = shelf.load(f"tree/top15_{number}")

    threads = [threading.Thread(target=load, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 2, 4, 6]
    assert len({id(module.V) for module in found.values()}) == 1
    assert left_in_process("tree_low15") == ["tree_low15"]
