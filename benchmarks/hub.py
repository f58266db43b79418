"""What does it cost that a kernel comes from the Hub's cache, and is checked? One subcommand per question, one JSON line per row.

The repositories are written here, and their way into the cache is a loopback Hub: what is measured makes no request.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from measure import compare, print_row

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "hub")]  # the loopback Hub and its repositories

from loopback import LoopbackHub  # noqa: E402
from published import UNIVERSAL, kernel  # noqa: E402

if TYPE_CHECKING:
    from fxkernels.hub.builds.digests import Digests

REPOSITORY = "acme/norms"

# What has been imported before the kernel is asked for is not its cost. What huggingface_hub imports for it, is. Times are those of the
# process and not of the wall clock: all is in the system's cache of the disk, and what else the machine is doing should not show.
LOAD = """
import time
import torch
from fxkernels import LayerRepository
from fxkernels.target import Target
repository, target = LayerRepository({repo_id!r}, layer_name="RMSNorm", revision={commit!r}), Target.of_machine("cpu")
start = time.process_time()
repository.load_for(target)
print(time.process_time() - start)
"""
IMPORT = """
import time
from pathlib import Path
import torch
from fxkernels.hub import import_variant, read_metadata
directory = Path({directory!r})
name = read_metadata(directory).id
start = time.process_time()
import_variant(directory, name, {repo_id!r})
print(time.process_time() - start)
"""


def in_fresh_process(script: str, environment: dict[str, str]) -> float:
    """Run a script that prints seconds, and return them."""
    result = subprocess.run([sys.executable, "-c", script], env=os.environ | environment, check=True, capture_output=True, text=True)
    return float(result.stdout)


def cached(home: Path, files: dict[str, bytes]) -> tuple[str, Path, dict[str, str]]:
    """Publish a repository, load it once, and return its commit, the build in the cache, and the environment in which both are found."""
    environment = {"HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
    with LoopbackHub() as hub:
        commit = hub.add(REPOSITORY, files)
        environment["HF_ENDPOINT"] = hub.url
        in_fresh_process(LOAD.format(repo_id=REPOSITORY, commit=commit), environment)
    # The Hub is gone: a request would fail.
    return commit, home / "hub/kernels--acme--norms/snapshots" / commit / "build" / UNIVERSAL, environment


@click.group(help=__doc__)
def main() -> None:
    """Measure one question."""


@main.command()
@click.option("--runs", default=5, show_default=True)
def load(runs: int) -> None:
    """A cached kernel in a fresh process: loaded with all checks, and imported alone. The difference is what the Hub costs."""
    forms: dict[str, dict[str, bytes | str]] = {
        "3 files": {},
        "40 files": {f"part{number}.py": f"V = {number}\n" * 200 for number in range(38)},
        "3 files and 32 MB of compiled code": {"kernel.so": os.urandom(32_000_000)},
    }
    for name, more in forms.items():
        with tempfile.TemporaryDirectory() as home:
            commit, directory, environment = cached(Path(home), kernel(digests=True, more=more))
            sides: dict[str, Callable[[], float]] = {
                "load": partial(in_fresh_process, LOAD.format(repo_id=REPOSITORY, commit=commit), environment),
                "import alone": partial(in_fresh_process, IMPORT.format(repo_id=REPOSITORY, directory=str(directory)), environment),
            }
            row = compare(f"cached kernel, {name}", sides, runs)
            difference = row["sides"]["load"] - row["sides"]["import alone"]
            print_row({**row, "question": f"{row['question']}: {1000 * difference:.1f} ms besides its import"})


@main.command()
@click.option("--megabytes", default=256, show_default=True)
@click.option("--runs", default=5, show_default=True)
def digests(megabytes: int, runs: int) -> None:
    """The digests of a build, against reading its files as fast as the disk (or the system's cache of it) gives them."""
    from fxkernels.hub.builds.digests import verify_files

    with tempfile.TemporaryDirectory() as folder:
        for count in (1, 8):
            files = {f"{number}.so": Path(folder, f"{number}.so") for number in range(count)}
            for path in files.values():
                path.write_bytes(os.urandom(megabytes * 1_000_000 // count))
            for algorithm in ("sha256", "sha512"):
                expected = digests_of(files, algorithm)
                sides = {
                    "verify": partial(first_time, files, partial(verify_files, files, expected, REPOSITORY)),
                    "read": partial(first_time, files, partial(read, files)),
                }
                row = compare(f"{algorithm} of {megabytes} MB in {count} {'file' if count == 1 else 'files'}", sides, runs)
                print_row({**row, "question": f"{row['question']}: {megabytes / row['sides']['verify']:.0f} MB/s"})


@main.command()
@click.option("--runs", default=5, show_default=True)
def again(runs: int) -> None:
    """What a check costs that was made before in the same process: the files' stamps are compared, nothing is read."""
    from fxkernels.hub.builds.digests import verify_files

    with tempfile.TemporaryDirectory() as folder:
        files = {f"{number}.so": Path(folder, f"{number}.so") for number in range(40)}
        for path in files.values():
            path.write_bytes(os.urandom(1_000_000))
        time.sleep(2.1)  # a file that was written a moment ago is not remembered
        expected = digests_of(files, "sha256")
        check = partial(verify_files, files, expected, REPOSITORY)
        check()
        sides = {"first": partial(first_time, files, check), "again": partial(settled, check)}
        print_row(compare("sha256 of 40 MB in 40 files", sides, runs))


def digests_of(files: dict[str, Path], algorithm: str) -> Digests:
    """Return the digests of files as they are now."""
    from fxkernels.hub.builds.digests import Digests

    return Digests(algorithm, {name: hashlib.new(algorithm, path.read_bytes()).digest() for name, path in files.items()})


def first_time(files: dict[str, Path], function: Callable[[], object]) -> float:
    """Return the seconds of the fastest of three calls on files that are new to this process."""
    return min(timed(function) for _ in range(3) if touch(files))


def touch(files: dict[str, Path]) -> bool:
    """Give the files new stamps, and say that it was done."""
    for path in files.values():
        os.utime(path)
    return True


def settled(function: Callable[[], object]) -> float:
    """Return the seconds of a call on files that were read by an earlier one and have not changed since."""
    time.sleep(2.1)
    function()
    return min(timed(function) for _ in range(3))


def read(files: dict[str, Path]) -> None:
    """Read the files, in pieces of 1 MiB."""
    for path in files.values():
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass


def timed(function: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
