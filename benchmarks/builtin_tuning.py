"""Which configuration of each built-in Triton kernel is fastest on this GPU, for which lengths and numbers of rows?

Every candidate is compiled and timed, each of them on data of a real layer in bfloat16. The fastest of each size class goes into
`configurations.json` beside the kernel; the entries of other GPUs stay. Candidates are tried from the simplest on, and one has to be 1 %
faster than those before it. With ``--log``, all times are kept, one JSON line per size.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import click
import torch
from builtin_gpu import CASES, arguments_of, kernel_of
from gpu_timing import in_other_processes, microseconds
from torch import Tensor

BUILDS = Path(__file__).parents[1] / "fxkernels" / "builtin"
Configuration = dict[str, int]

ROWS = [(1, 16), (256, 1024), (4096, 8192), (16384, None)]
"""Numbers of rows that are measured, and up to how many rows each of them stands for."""


@dataclass(frozen=True)
class Tuned:
    """One kernel: where it lies, its name in the table, the layer that runs it, and in which direction."""

    folder: str
    kernel: str
    case: str
    backward: bool
    candidates: Callable[[int, int], Iterator[Configuration]]
    sizes: tuple[int, ...] = (4096, 8192)
    flat: bool = False
    """Whether the table knows only the number of values."""


def norm_forward(n: int, rows: int) -> Iterator[Configuration]:
    """A tile for each program, and, of many rows, programs that take every so manieth tile."""
    for tile_rows in [r for r in (1, 2, 4, 8, 16) if r == 1 or (rows > 1 and 2048 <= r * n <= 8192)]:
        for warps in [w for w in (2, 4, 8, 16) if 8 <= tile_rows * n // w // 32 <= 64]:
            yield {"rows": tile_rows, "warps": warps, "stages": 0}
            if rows >= 4096:
                yield from ({"rows": tile_rows, "warps": warps, "stages": s, "programs": p} for s, p in ((2, 264), (3, 264), (3, 528)))


def norm_backward(n: int, rows: int) -> Iterator[Configuration]:
    """As many tiles for each program as leave few partial sums."""
    for tile_rows in [r for r in (1, 2, 4, 8, 16, 32) if r == 1 or (rows > 1 and 2048 <= r * n <= 4096)]:
        for warps in [w for w in (4, 8, 16) if 8 <= tile_rows * n // w // 32 <= 32]:
            if rows <= 256:
                yield {"rows": tile_rows, "warps": warps, "stages": 0}
            if rows > 1:
                yield from ({"rows": tile_rows, "warps": warps, "stages": 3, "programs": programs} for programs in (132, 264))


def rotation(n: int, rows: int) -> Iterator[Configuration]:
    """The heads of a token in some programs."""
    for groups in (1, 2, 8) if rows < 4096 else (1, 2):
        for warps in (2, 4, 8):
            yield {"groups": groups, "warps": warps}


def elements(n: int, rows: int) -> Iterator[Configuration]:
    """Tiles of four to sixteen values for each thread."""
    for tile in (256, 512, 1024, 2048):
        for warps in [w for w in (1, 2, 4, 8) if 4 <= tile // w // 32 <= 16]:
            yield {"tile": tile, "warps": warps}


def convolution(n: int, rows: int) -> Iterator[Configuration]:
    """One channel or two for each thread, and programs that go through longer or shorter stretches of time."""
    for channels, warps in ((128, 4), (128, 2), (64, 2), (256, 4)):
        for steps in (16, 32) if rows > 1 else (8,):
            for programs in (2112, 4224, 8448) if rows > 256 else (1056,):
                yield {"channels": channels, "steps": steps, "warps": warps, "programs": programs}


NORMS = [("rmsnorm", "", "RMSNorm"), ("rmsnorm", ", gated", "RMSNorm gated by SiLU"), ("layernorm", "", "LayerNorm")]
KERNELS = [
    *(Tuned(folder, f"forward{kind}", case, False, norm_forward) for folder, kind, case in NORMS),
    *(Tuned(folder, f"backward{kind}", case, True, norm_backward) for folder, kind, case in NORMS),
    Tuned("rotary", "rotate", "rotary", False, rotation),
    Tuned("activation", "gated_forward", "SiluAndMul", False, elements),
    Tuned("activation", "gated_backward", "SiluAndMul", True, elements),
    Tuned("activation", "plain_forward", "NewGELU", False, elements, (4096,), flat=True),
    Tuned("activation", "plain_backward", "NewGELU", True, elements, (4096,), flat=True),
    Tuned("causal_conv1d", "forward", "causal convolution, SiLU", False, convolution),
    Tuned("causal_conv1d", "backward", "causal convolution, SiLU", True, convolution),
]


def launches_of(tuned: Tuned) -> ModuleType:
    """The module that looks up the configuration of the kernel."""
    package = kernel_of(CASES[tuned.case], "cuda").__module__.rpartition(".")[0]
    return next(
        m for name, m in list(sys.modules.items()) if name.startswith(f"{package}.") and hasattr(m, "configured") and hasattr(m, "triton")
    )


def call_of(tuned: Tuned, rows: int, size: int) -> Callable[[], object]:
    """One launch in the direction that is tuned, with the second stage of a backward."""
    layer, arguments = arguments_of(tuned.case, rows, size)
    kernel = kernel_of(CASES[tuned.case], "cuda")
    if not tuned.backward:

        def forward() -> object:
            with torch.no_grad():
                return kernel(layer, *arguments)

        return forward
    inputs = [value for value in (*arguments, *layer.parameters()) if isinstance(value, Tensor) and value.requires_grad]
    grads = torch.randn_like(kernel(layer, *arguments))
    # With the forward: autograd runs a backward where its forward ran, which has to be in the graph.
    return lambda: torch.autograd.grad(kernel(layer, *arguments), inputs, grads)


def times_of(tuned: Tuned, rows: int, size: int, *, compile_only: bool = False) -> list[tuple[float, Configuration]]:
    """Every candidate that can be run, and its time."""
    module, run = launches_of(tuned), call_of(tuned, min(rows, 64) if compile_only else rows, size)
    real, found = module.configured, []
    for candidate in tuned.candidates(size, rows):
        module.configured = lambda name, *rest, c=candidate: rest[-1] | (c if name == tuned.kernel else {})
        try:
            run()
            found.append((0.0 if compile_only else median(microseconds(run, replays=5, span=200.0)), candidate))
        except Exception as error:
            print(f"{tuned.folder} {tuned.kernel} {rows}x{size} {candidate}: {error!r}"[:300], file=sys.stderr)
    module.configured = real
    return found


def fastest(times: list[tuple[float, Configuration]]) -> tuple[float, Configuration]:
    best = times[0]
    for time, candidate in times[1:]:
        if time < 0.99 * best[0]:
            best = time, candidate
    return best


def sizes_of(tuned: Tuned, only: tuple[int, ...]) -> Iterator[tuple[int, int, int | None, int]]:
    """Rows and their length, up to how many rows these stand for, and the length in the table."""
    for size in [s for s in tuned.sizes if not only or s in only]:
        for rows, most in ROWS:
            yield (rows, size, most and most * size, 1) if tuned.flat else (rows, size, most, size)


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=BUILDS, help="Where folders with tables are; those of the library.")
@click.option("--log", type=click.Path(path_type=Path), default=None, help="A file for all times.")
@click.option("--kernel", "only", multiple=True, help="Only kernels whose folder and name begin so, e.g. 'rmsnorm backward'.")
@click.option("--size", "lengths", type=int, multiple=True, help="Only rows of this length.")
def main(out: Path, log: Path | None, only: tuple[str, ...], lengths: tuple[int, ...]) -> None:
    chosen = [t for t in KERNELS if not only or any(f"{t.folder} {t.kernel}".startswith(name) for name in only)]
    jobs = [(t, rows, size) for t in chosen for rows, size, _, _ in sizes_of(t, lengths) if rows != 4096]  # compiles as 16384 does
    for problem in in_other_processes(lambda job: times_of(*job, compile_only=True), jobs):
        print(problem, file=sys.stderr)
    tables: dict[str, dict[str, Any]] = {}
    for tuned in chosen:
        for rows, size, most, block in sizes_of(tuned, lengths):
            times = times_of(tuned, rows, size)
            time, configuration = fastest(times)
            tables.setdefault(tuned.folder, {}).setdefault(tuned.kernel, {}).setdefault(str(block), []).append([most, configuration])
            print(f"{tuned.folder} {tuned.kernel} {rows}x{size}: {time:.2f} us {configuration}", flush=True)
            if log:
                with log.open("a") as file:
                    ordered = sorted(times, key=lambda pair: pair[0])
                    file.write(
                        json.dumps({"kernel": f"{tuned.folder} {tuned.kernel}", "rows": rows, "size": size, "times": ordered}) + "\n"
                    )
            torch.cuda.empty_cache()
    capability = "".join(map(str, torch.cuda.get_device_capability()))
    for folder, table in tables.items():
        written(out / folder / "build" / "torch-cuda" / "configurations.json", capability, table)


def written(path: Path, capability: str, table: dict[str, Any]) -> None:
    """Put the table of one GPU into a file, one line for each class of sizes."""
    whole = json.loads(path.read_text()) if path.exists() else {}
    for kernel, lengths in table.items():
        whole.setdefault(capability, {}).setdefault(kernel, {}).update(lengths)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text_of(whole)}\n")


def text_of(value: Any, indent: str = "") -> str:
    """JSON with a line for each class of sizes."""
    if isinstance(value, list):
        return "[\n" + ",\n".join(f"{indent}  {json.dumps(item)}" for item in value) + f"\n{indent}]"
    items = [f"{indent}  {json.dumps(key)}: {text_of(item, indent + '  ')}" for key, item in value.items()]
    return "{\n" + ",\n".join(items) + f"\n{indent}}}"


if __name__ == "__main__":
    main()
