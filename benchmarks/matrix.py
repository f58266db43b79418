"""Run the tests with the oldest and the newest versions that are promised: ``python benchmarks/matrix.py [ROW]``.

Each row is an environment under ``.matrix/``, which is made on first use and kept; the pinned row is the environment of ``make test``. In
each, `fxkernels demo` runs, and those tests whose outcome may depend on a version. A row that was run replaces its line in
``results/matrix.jsonl``, from which `render.py` makes the table of CONTRIBUTING.md, so rows may be run one at a time. The exit code is 1
if anything has failed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import render

PROJECT = Path(__file__).parent.parent
ENVIRONMENTS = PROJECT / ".matrix"
RESULTS = Path(__file__).parent / "results" / "matrix.jsonl"

GROUPS: dict[str, tuple[str, ...]] = {
    "canaries": ("tests/capture/_torch/",),
    "capture": ("tests/capture/",),
    "annotations": ("tests/test_annotat",),
    "backend": ("tests/test_backend", "tests/compiling/"),
    "transform": ("tests/test_transform",),
    "lowering": ("tests/kernels/lowering/",),
    "models": ("tests/test_models", "tests/builtin/test_transformers"),
    "hub": ("tests/hub/",),
}
"""How the paths of their tests begin. A test that fits two groups is counted in the first."""

AS_PINNED = ""
"""The version of the environment that runs this script."""


@dataclass(frozen=True)
class Row:
    """An environment, and what runs in it.

    Args:
        packages: Exact versions; without any, it is the environment of ``make test``.
        python: Version of Python, if there is one on PATH.
        demo: Whether `fxkernels demo` runs.
        groups: Which tests do.
    """

    packages: Mapping[str, str] = field(default_factory=dict)
    python: str | None = None
    demo: bool = True
    groups: tuple[str, ...] = tuple(GROUPS)


ROWS: dict[str, Row] = {
    "oldest": Row(
        {"torch": "2.11.0", "triton": "3.6.0", "transformers": "5.17.0", "huggingface_hub": "1.10.0", "kernels": "0.17.2"}, python="3.11"
    ),
    "pinned": Row(),
    "newest": Row({"torch": "2.15.0", "triton": "3.9.0", "transformers": "5.24.0", "huggingface_hub": "2.4.0"}, python="3.13"),
    # What CI can afford of the newest row: no other torch is downloaded.
    "newest-libraries": Row(
        {"torch": AS_PINNED, "transformers": "5.24.0", "huggingface_hub": "2.4.0"},
        demo=False,  # it uses neither of them
        groups=("annotations", "transform", "models", "hub"),
    ),
}


def python_of(name: str) -> str:
    """Return the interpreter of a row's environment; it is made first where it does not exist, or was made of something else."""
    row = ROWS[name]
    if not row.packages:
        return sys.executable
    folder = ENVIRONMENTS / name
    python, made_of = folder / "bin" / "python", folder / "made-of.txt"
    wanted = [f"{package}=={version or importlib.metadata.version(package)}" for package, version in row.packages.items()]
    contents = "\n".join([*wanted, (PROJECT / "pyproject.toml").read_text()])
    if not made_of.exists() or made_of.read_text() != contents:
        if not python.exists():
            run([interpreter(row.python), "-m", "venv", folder])
        # A row's versions are exact, whatever constraints the machine has.
        exactly = {"PIP_CONSTRAINT": os.devnull}
        run([python, "-m", "pip", "install", "--quiet", "--no-compile", *wanted, "--editable", f"{PROJECT}[test]"], exactly)
        made_of.write_text(contents)
    return str(python)


def interpreter(version: str | None) -> str:
    """Return the command of a version of Python; that of the Python which runs this script, if there is no other, and say so."""
    found = shutil.which(f"python{version}") if version is not None else sys.executable
    # A launcher may be there for a version that is not.
    if found is not None and subprocess.run([found, "-c", ""], check=False, capture_output=True).returncode == 0:
        return found
    print(f"python{version} does not run here, so the row gets the Python of this script, {sys.version.split()[0]}", file=sys.stderr)
    return sys.executable


def run(command: Sequence[str | Path], more: Mapping[str, str] | None = None, *, check: bool = True) -> int:
    """Run a command in the checkout, whose fxkernels it finds before any that is installed; show what it prints. Return its exit code."""
    print("+", *command, file=sys.stderr, flush=True)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), **(more or {})}
    return subprocess.run(command, cwd=PROJECT, env=environment, check=check).returncode


def tests_of(groups: Iterable[str]) -> list[Path]:
    """Return the files and folders with the tests of some groups.

    Raises:
        ValueError: If there are none for the beginning of a path.
    """
    found = []
    for start in (start for group in groups for start in GROUPS[group]):
        paths = [PROJECT / start] if start.endswith("/") else sorted(PROJECT.glob(f"{start}*.py"))
        if not paths or not paths[0].exists():
            raise ValueError(f"no tests begin with {start}: bring GROUPS in {Path(__file__).name} up to date")
        found += paths
    return found


def counted(junit: str, groups: Iterable[str]) -> dict[str, dict[str, int]]:
    """Return how many tests of each group have passed, failed and were skipped.

    Args:
        junit: What pytest has written with ``--junitxml``.
        groups: The groups that were run.
    """
    counts = {group: dict.fromkeys(("passed", "failed", "skipped"), 0) for group in groups}
    for case in ElementTree.fromstring(junit).iter("testcase"):
        module = case.get("classname") or case.get("name") or ""  # a file that cannot be imported has a name only
        group = next(group for group in counts for start in GROUPS[group] if module.startswith(start.replace("/", ".")))
        children = {child.tag for child in case}
        counts[group]["failed" if children & {"failure", "error"} else "skipped" if "skipped" in children else "passed"] += 1
    return counts


def run_row(name: str) -> dict[str, Any]:
    """Run a row, and return its line of the results."""
    row, python = ROWS[name], python_of(name)
    start = time.monotonic()
    script = "import json; from fxkernels.versions import installed_versions as found; print(json.dumps(dict(found())))"
    asked = subprocess.run([python, "-c", script], cwd=PROJECT, check=True, capture_output=True, text=True)
    demo = {"demo": not run([python, "-m", "fxkernels", "demo"], check=False)} if row.demo else {}
    written = ENVIRONMENTS / "junit.xml"
    written.parent.mkdir(exist_ok=True)
    written.unlink(missing_ok=True)
    ended = run([python, "-m", "pytest", "-q", "-n", "auto", f"--junitxml={written}", *tests_of(row.groups)], check=False)
    if not written.exists():
        raise RuntimeError(f"the tests of row {name!r} could not be run: pytest ended with exit code {ended}, see above")
    versions = {library: version for library, version in json.loads(asked.stdout).items() if library != "fxkernels"}
    return {
        "row": name,
        "versions": versions,
        **demo,
        "tests": counted(written.read_text(), row.groups),
        "minutes": round((time.monotonic() - start) / 60, 1),
    }


def is_green(line: Mapping[str, Any]) -> bool:
    """Whether nothing of a row has failed."""
    return line.get("demo", True) and not any(counts["failed"] for counts in line["tests"].values())


def main() -> None:
    """Run the rows that are named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="?", choices=ROWS, help="one row; without it, all of them")
    asked = parser.parse_args().row
    lines = {line["row"]: line for line in map(json.loads, RESULTS.read_text().splitlines())} if RESULTS.exists() else {}
    ran = [asked] if asked is not None else list(ROWS)
    for name in ran:
        lines[name] = run_row(name)
        kept = [lines[each] for each in ROWS if each in lines]
        RESULTS.write_text("".join(f"{json.dumps(line)}\n" for line in kept))
        render.main()
    print(render.versions([lines[name] for name in ran]))
    sys.exit(0 if all(is_green(lines[name]) for name in ran) else 1)


if __name__ == "__main__":
    main()
