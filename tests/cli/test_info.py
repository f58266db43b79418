"""`fxkernels info` and `fxkernels versions`."""

from __future__ import annotations

from pathlib import Path

from hub_commands import CUDA_BUILD, H100, Run, answer, fits
from loopback import LoopbackHub
from published import kernel


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
