"""`fxkernels download`, `lock`, `verify`, `versions` and `info` on the loopback Hub."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from loopback import LoopbackHub
from published import kernel

from fxkernels.cli import main

Run = Callable[..., Result]
CUDA_BUILD = "torch213-cxx11-cu130-x86_64-linux"
H100 = "cuda:sm90 torch2.13 cu130"


@pytest.fixture
def run(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in an empty folder, with the real client pointed at the loopback Hub."""
    monkeypatch.chdir(tmp_path)

    def run_(*arguments: str) -> Result:
        result = CliRunner(env={"COLUMNS": "80"}).invoke(main, list(arguments))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run_


def answer(result: Result) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(result.stdout)
    assert content["ok"] == (result.exit_code == 0)
    return content


def project(*lines: str) -> None:
    Path("pyproject.toml").write_text("\n".join(["[tool.fxkernels.kernels]", *lines]))


def cached(client: Any, path: str, repo_id: str = "acme/norms") -> Path:
    (file,) = client.folder(repo_id).glob(f"snapshots/*/build/{path}")
    return Path(file)


def change(file: Path, content: bytes) -> None:
    file.resolve().chmod(0o644)
    file.resolve().write_bytes(content)


def fits(result: Result) -> bool:
    return max(map(len, result.stdout.splitlines())) <= 80


# --- versions ---------------------------------------------------------------------------------------------------------------------------


def test_versions_lists_commits_and_says_which_are_cached(hub: LoopbackHub, run: Run) -> None:
    first, second = hub.add("acme/norms", kernel()), hub.add("acme/norms", kernel(), version=12)
    assert run("download", "acme/norms", "--version", "1").exit_code == 0
    result = run("versions", "acme/norms")
    assert result.stdout.splitlines() == ["acme/norms", f"  version 1    {first}  in the cache", f"  version 12   {second}"]
    assert fits(result)
    assert answer(run("versions", "acme/norms", "--json"))["versions"] == [
        {"version": 1, "commit": first, "cached": True},
        {"version": 12, "commit": second, "cached": False},
    ]


def test_a_repository_without_versions_is_exit_code_1(hub: LoopbackHub, run: Run) -> None:
    hub.add("acme/norms", kernel(), version=None)
    result = run("versions", "acme/norms")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "acme/norms has no versions (branches v1, v2 ...)" in result.stderr


# --- errors -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (["versions", "acme/none"], 1, "there is no such kernel repository"),
        (["info", "acme/norms", "--version", "3"], 1, "it has no such version or revision"),
        (["download", "acme/norms", "--version", "3"], 1, "it has no such version or revision"),
        (["download", "acme/norms"], 2, "neither a version nor a revision"),
        (["download", "acme/norms", "--version", "1", "--revision", "main"], 2, "give one of the two"),
        (["download", "acme/norms", "--version", "1", "--for", "gpu"], 2, "target 'gpu' begins with 'gpu'"),
        (["download", "acme/norms", "--version", "1", "--for", H100], 1, "acme/norms@"),
        (["download", "acme/norms", "--version", "1", "--for", "cpu", "--all-variants"], 2, "contradict each other"),
        (["download"], 2, "give a REPO such as acme/norms, or --lockfile"),
        (["download", "acme/norms", "--lockfile", "x.lock"], 2, "--lockfile says what to download"),
        (["download", "--lockfile", "x.lock"], 1, "there is no lock file"),
        (["download", "norms", "--version", "1"], 2, "'norms' is no repository on the Hub"),
        (["download", "../x", "--version", "1"], 2, "'../x' is no repository on the Hub"),
        (["download", "acme/norms", "--revision", "../x"], 2, "no name of a commit, tag or branch"),
        (["info", "norms"], 2, "norms is no directory, and no repository"),
        (["lock"], 2, "there is no pyproject.toml"),
        (["verify", "norms"], 2, "norms is no lock file, no directory, and no repository"),
        (["verify", ".", "--version", "1"], 2, "--version and --revision belong to a repository"),
        (["verify", "acme/norms"], 1, "nothing is there to be checked"),
    ],
)
def test_an_error_is_a_line_on_stderr_or_a_json_object_and_an_exit_code(
    hub: LoopbackHub, run: Run, command: list[str], code: int, message: str
) -> None:
    hub.add("acme/norms", kernel("torch-cpu"))
    result = run(*command)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    result = run(*command, "--json")
    assert result.exit_code == code
    content = answer(result)
    assert message in (content["failure"] if "failure" in content else content["error"]["message"])


def test_the_error_object_has_the_code_of_the_miss(hub: LoopbackHub, run: Run) -> None:
    hub.add("acme/norms", kernel("torch-cuda"), trusted=False)
    assert answer(run("download", "acme/norms", "--version", "1", "--json"))["error"]["code"] == "untrusted"
    trusting = run("download", "acme/norms", "--version", "1", "--trust", "acme/norms", "--for", "cpu", "--json")
    assert answer(trusting)["error"]["code"] == "no_variant"


@pytest.mark.parametrize("command", ["download", "lock", "verify", "versions", "info"])
def test_help_has_examples_and_fits_80_columns(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Examples:\n    fxkernels {command}" in result.stdout
    assert fits(result)


# --- download ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_download_fetches_the_build_that_fits_and_what_it_depends_on_for_offline_use(hub: LoopbackHub, client: Any, run: Run) -> None:
    hub.add("acme/base", kernel(value="base"))
    depends = {"kernel-depends": [{"repo-id": "acme/base", "version": 1}]}
    commit = hub.add("acme/norms", kernel("torch-cpu", metadata=depends) | kernel("torch-cuda", more={"ops.so": b"x" * 1000}))
    result = run("download", "acme/norms", "--version", "1", "--for", "cpu", "--json")
    builds = answer(result)["builds"]
    assert [(build["repository"], build["variant"], build["files"]) for build in builds] == [
        ("acme/norms", "torch-cpu", 3),
        ("acme/base", "torch-universal", 3),
    ]
    assert builds[0]["commit"] == commit
    assert Path(builds[0]["path"], "layers.py").is_file()
    assert not any(path.endswith(".so") for path in hub.downloads())
    script = "from fxkernels import LayerRepository as L; print(L('acme/norms', layer_name='RMSNorm', version=1).load().__name__)"
    loaded = client.run(script, HF_HUB_OFFLINE="1")
    assert loaded.stdout == "RMSNorm\n", loaded.stderr


def test_download_of_all_variants_fetches_each_build(hub: LoopbackHub, run: Run) -> None:
    hub.add("acme/norms", kernel("torch-cpu") | kernel(CUDA_BUILD, more={"ops.so": b"x" * 1000}))
    result = run("download", "acme/norms", "--revision", "main", "--all-variants")
    assert f"{CUDA_BUILD}: 4 files" in result.stdout
    assert "torch-cpu: 3 files" in result.stdout


def test_download_of_a_lock_file_fetches_what_is_locked(hub: LoopbackHub, run: Run) -> None:
    commit = hub.add("acme/norms", kernel("torch-cpu") | kernel(CUDA_BUILD))
    project('"acme/norms" = 1')
    assert run("lock").exit_code == 0
    hub.add("acme/norms", kernel("torch-cpu"))
    builds = answer(run("download", "--lockfile", "fxkernels.lock", "--for", H100, "--json"))["builds"]
    assert [(build["commit"], build["variant"]) for build in builds] == [(commit, CUDA_BUILD)]
    assert len(answer(run("download", "--lockfile", "fxkernels.lock", "--all-variants", "--json"))["builds"]) == 2


# --- lock -------------------------------------------------------------------------------------------------------------------------------


def test_lock_writes_the_file_and_says_what_has_changed(hub: LoopbackHub, run: Run) -> None:
    first, other = hub.add("acme/norms", kernel()), hub.add("acme/other", kernel())
    project('"acme/norms" = { version = 1 }', '"acme/other" = { revision = "main" }')
    result = run("lock")
    assert result.stdout.splitlines() == [
        "fxkernels.lock: 2 repositories",
        f"  + acme/norms@v1 {first[:7]}",
        f"  + acme/other@main {other[:7]}",
    ]
    text = Path("fxkernels.lock").read_text()
    assert run("lock").stdout.splitlines() == ["fxkernels.lock: 2 repositories", "  nothing has changed"]
    assert Path("fxkernels.lock").read_text() == text
    second = hub.add("acme/norms", kernel())
    project('"acme/norms" = 1')
    from fxkernels.hub import forget_resolved

    forget_resolved()
    content = answer(run("lock", ".", "--json"))
    assert content["changes"] == [f"* acme/norms@v1 {first[:7]} -> {second[:7]}", f"- acme/other@main {other[:7]}"]
    assert content["repositories"] == [{"repository": "acme/norms", "name": "acme/norms@v1", "commit": second}]


def test_lock_check_compares_with_pyproject_without_the_network(hub: LoopbackHub, run: Run, request: pytest.FixtureRequest) -> None:
    hub.add("acme/norms", kernel())
    project('"acme/norms" = 1')
    assert "there is no lock file" in run("lock", "--check").stderr
    run("lock")
    request.getfixturevalue("offline")
    assert run("lock", "--check").exit_code == 0
    project('"acme/norms" = 2', '"acme/other" = 1')
    result = run("lock", "--check", "--json")
    assert result.exit_code == 1
    assert (answer(result)["missing"], answer(result)["extra"]) == (["acme/norms@v2", "acme/other@v1"], ["acme/norms@v1"])


def test_a_lock_file_that_cannot_be_read_is_replaced_with_a_note(hub: LoopbackHub, run: Run) -> None:
    hub.add("acme/norms", kernel())
    project('"acme/norms" = 1')
    Path("fxkernels.lock").write_text("<<<<<<< HEAD\n")
    result = run("lock")
    assert result.exit_code == 0
    assert "Note: the lock file that was there is replaced" in result.stdout
    assert run("lock", "--check").exit_code == 0


def test_a_lock_that_fails_leaves_the_old_file(hub: LoopbackHub, run: Run) -> None:
    hub.add("acme/norms", kernel())
    project('"acme/norms" = 1')
    run("lock")
    before = Path("fxkernels.lock").read_text()
    hub.add("evil/norms", kernel(), trusted=False)
    project('"acme/norms" = 1', '"evil/norms" = 1')
    assert run("lock").exit_code == 1
    assert Path("fxkernels.lock").read_text() == before
    assert run("lock", "--trust", "evil/norms").exit_code == 0


# --- verify -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def locked(hub: LoopbackHub, run: Run) -> str:
    """A lock file of a repository that was downloaded; returns its commit's first digits."""
    commit = hub.add("acme/norms", kernel("torch-cpu", digests=True, more={"ops.so": b"x" * 1000}))
    project('"acme/norms" = 1')
    assert run("lock").exit_code == 0
    assert run("download", "--lockfile", "fxkernels.lock", "--for", "cpu").exit_code == 0
    return commit[:7]


@pytest.mark.parametrize("subject", ["fxkernels.lock", "acme/norms"])
def test_verify_finds_good_files_good_without_a_request(hub: LoopbackHub, run: Run, locked: str, subject: str) -> None:
    hub.stop()
    result = run("verify", subject)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [f"good    acme/norms@{locked} torch-cpu", "1 build: 1 good"]


@pytest.mark.parametrize("subject", ["fxkernels.lock", "acme/norms"])
@pytest.mark.parametrize("name", ["layers.py", "metadata.json", "ops.so"])
def test_verify_names_a_changed_file(run: Run, client: Any, locked: str, subject: str, name: str) -> None:
    file = cached(client, f"torch-cpu/{name}")
    change(file, file.read_bytes()[:-1] + b"!")
    result = run("verify", subject)
    assert result.exit_code == 1
    assert f"BAD     acme/norms@{locked} torch-cpu" in result.stdout
    assert name in result.stdout
    assert f"{subject}: 1 build is not as published or locked" in result.stderr
    (build,) = answer(run("verify", subject, "--json"))["builds"]
    assert (build["status"], build["variant"]) == ("bad", "torch-cpu")
    assert name in build["message"]


@pytest.mark.parametrize("subject", ["fxkernels.lock", "acme/norms"])
def test_verify_names_an_extra_file(run: Run, client: Any, locked: str, subject: str) -> None:
    cached(client, "torch-cpu/layers.py").with_name("evil.py").write_text("")
    result = run("verify", subject)
    assert result.exit_code == 1
    assert "evil.py" in result.stdout


def test_verify_checks_the_files_that_were_downloaded_of_a_build(hub: LoopbackHub, run: Run, client: Any) -> None:
    hub.add("acme/norms", kernel("torch-cpu", more={"ops.so": b"x" * 1000}))
    project('"acme/norms" = 1')
    run("lock")  # downloads all but the large file
    for subject in ("fxkernels.lock", "acme/norms"):
        result = run("verify", subject)
        assert result.exit_code == 0
        assert "3 of 4 files were downloaded" in result.stdout
    change(cached(client, "torch-cpu/layers.py"), b"import os\n")
    assert [run("verify", subject).exit_code for subject in ("fxkernels.lock", "acme/norms")] == [1, 1]


def test_verify_against_a_lock_of_other_files_or_another_commit_fails(hub: LoopbackHub, run: Run, locked: str) -> None:
    content = json.loads(Path("fxkernels.lock").read_text())
    content["repositories"][0]["variants"]["torch-cpu"]["layers.py"] = "0" * 64
    Path("other.lock").write_text(json.dumps(content))
    assert "layers.py" in run("verify", "other.lock").stdout
    content["repositories"][0]["commit"] = "0" * 40
    Path("other.lock").write_text(json.dumps(content))
    result = run("verify", "other.lock")
    assert result.exit_code == 1
    assert "absent" in result.stdout


def test_a_lock_without_digests_is_not_checked_and_says_so(hub: LoopbackHub, run: Run) -> None:
    commit = hub.add("acme/norms", kernel())
    run("download", "acme/norms", "--version", "1")
    entry = {"dependency": {"repo-id": "acme/norms", "version": 1}, "lock": {"commit": commit}}
    Path("kernels.lock").write_text(json.dumps([entry]))
    result = run("verify", "kernels.lock")
    assert result.exit_code == 1
    assert "UNKNOWN acme/norms" in result.stdout
    assert "kernels.lock has no digests" in result.stdout
    assert "1 build cannot be checked" in result.stderr


def test_verify_of_a_directory_uses_the_digests_in_its_metadata(run: Run, tmp_path: Path) -> None:
    for path, content in (kernel("torch-cpu", digests=True) | kernel("torch-cuda")).items():
        (tmp_path / "norms" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "norms" / path).write_bytes(content)
    result = run("verify", "./norms")
    assert result.exit_code == 1
    assert "good    norms torch-cpu" in result.stdout
    assert "torch-cuda\n        metadata.json has no digests to check the files against" in result.stdout
    (tmp_path / "norms/build/torch-cpu/layers.py").write_text("import os\n")
    assert "layers.py" in run("verify", "./norms").stdout


def test_verify_of_one_version_leaves_the_others_out(hub: LoopbackHub, run: Run) -> None:
    for version in (1, 2):
        hub.add("acme/norms", kernel(), version=version)
        run("download", "acme/norms", "--version", str(version))
    assert len(answer(run("verify", "acme/norms", "--json"))["builds"]) == 2
    assert len(answer(run("verify", "acme/norms", "--version", "2", "--json"))["builds"]) == 1
    assert run("verify", "acme/norms", "--version", "3").exit_code == 1


# --- info -------------------------------------------------------------------------------------------------------------------------------


def test_info_shows_the_choice_for_a_target_and_why_not_the_others(hub: LoopbackHub, run: Run) -> None:
    old = kernel(CUDA_BUILD.replace("213", "29"), backend={"type": "cuda"})
    a100 = kernel(CUDA_BUILD, backend={"type": "cuda", "archs": ["8.0a"]}, more={"ops.so": b"x" * 10})
    commit = hub.add("acme/norms", old | a100 | kernel("torch-cuda") | kernel())
    result = run("info", "acme/norms", "--for", H100)
    assert result.exit_code == 0, result.output
    out = result.stdout
    assert f"repository acme/norms@v1\ncommit     {commit}\npublisher  acme, trusted\ntarget     {H100} linux-x86_64\n" in out
    assert "> torch-cuda: fits best\n" in out
    assert "  torch-universal: fits too, but torch-cuda comes first\n" in out
    assert f"  {CUDA_BUILD}: compiled for the architectures 8.0a" in out
    assert "built for torch 2.9, this is 2.13" in out
    assert "license         apache-2.0" in out
    assert "RMSNorm(hidden_states)" in out
    assert fits(result)
    assert not any(path.endswith(".so") for path in hub.downloads())


def test_info_as_json(hub: LoopbackHub, run: Run) -> None:
    layers = (
        "class Gated(nn.Module):\n    has_backward = False\n    def forward(self, x: 'Tensor', *, scale=1.0): ...\n"
        "class Op(Function):\n    def forward(ctx): ...\n"
    )
    commit = hub.add("acme/norms", kernel(more={"layers.py": layers}, digests=True), trusted=False)
    content = answer(run("info", "acme/norms", "--revision", "main", "--for", "cpu", "--json"))
    assert (content["commit"], content["trusted_publisher"], content["chosen"]) == (commit, False, "torch-universal")
    assert content["builds"] == [{"name": "torch-universal", "verdict": "fits best"}]
    assert content["layers"] == [
        {"name": "Gated", "signature": "x: 'Tensor', *, scale=1.0", "has_backward": False, "can_torch_compile": None}
    ]
    assert content["metadata"]["digests"] == "sha256"


def test_info_without_a_build_that_fits_is_exit_code_1_and_still_says_why(hub: LoopbackHub, run: Run) -> None:
    hub.add("acme/norms", kernel("torch-cuda"))
    result = run("info", "acme/norms", "--for", "cpu")
    assert result.exit_code == 1
    assert "torch-cuda: for cuda, the target is cpu" in result.stdout
    assert "has no build for cpu" in result.stderr


def test_info_of_a_directory_runs_and_asks_nothing(hub: LoopbackHub, run: Run, tmp_path: Path) -> None:
    for path, content in kernel("torch-cpu", more={"__init__.py": "raise SystemExit('it was run')"}).items():
        (tmp_path / "norms" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "norms" / path).write_bytes(content)
    result = run("info", "./norms", "--for", "cpu")
    assert result.exit_code == 0, result.output
    assert "directory  ./norms" in result.stdout
    assert "RMSNorm(hidden_states)" in result.stdout
    assert hub.requests == []


@pytest.mark.slow
def test_the_commands_in_a_pipe_print_plain_text_and_nothing_on_stderr(hub: LoopbackHub, client: Any, tmp_path: Path) -> None:
    hub.add("acme/norms", kernel())
    environment = {key: value for key, value in client.environment().items() if key != "HF_HUB_DISABLE_PROGRESS_BARS"}
    command = [sys.executable, "-m", "fxkernels", "info", "acme/norms", "--version", "1"]
    root = str(Path(__file__).parents[2])
    result = subprocess.run(command, cwd=tmp_path, env=environment | {"PYTHONPATH": root}, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "\x1b" not in result.stdout
    assert "> torch-universal: fits best" in result.stdout
