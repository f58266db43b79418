"""Dumps: the graph before and after each pass, as files to read and to compare."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from .passes.layer_call import LayerCall
from .passes.pipeline import Pass, State

VARIABLE = "FXKERNELS_DUMP"
"""The environment variable that names the directory for dumps."""


def dump_in_environment() -> Dump | None:
    """Return what writes down the next captured graph, where ``FXKERNELS_DUMP`` says; None if it says nothing.

    Raises:
        ValueError: If nothing can be written there.
    """
    said = os.environ.get(VARIABLE, "").strip()
    if not said:
        return None
    try:
        return Dump(Path(said))
    except OSError as error:
        raise ValueError(
            f"the environment variable {VARIABLE}={said!r} names no directory that can be written: {error}; unset it to write nothing"
        ) from error


class Dump:
    """Observes a pipeline: writes what was captured, and the graph after each pass, into a new directory ``graph-N``.

    Args:
        directory: Where that directory is made. What other captures and other processes have written there stays.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = _new_directory(directory)
        self._steps = itertools.count()

    def __call__(self, step: Pass | None, state: State) -> None:
        name = "captured" if step is None else step.name
        (self.directory / f"{next(self._steps)}-{name}.txt").write_text("\n".join(_lines(state)) + "\n", encoding="utf-8")


def _new_directory(parent: Path) -> Path:
    for number in itertools.count():
        directory = parent / f"graph-{number}"
        try:
            directory.mkdir()
        except FileExistsError:
            continue
        return directory
    raise AssertionError("there is always a further number")


def _lines(state: State) -> Iterator[str]:
    """The layer calls with what was decided, as far as they are known, and then the code of the graph and of those nested in it."""
    decisions = dict(state.plan)
    for call in state.calls:
        yield f"# {call.key}: {call.site.layer_name}, {_size(call)}"
        if (decision := decisions.get(call)) is not None:
            taken = [f" by {decision.use.kernel.identity}"] if decision.use is not None else []
            yield "".join([f"#   {decision.status}", *taken, *(f", {miss}" for miss in decision.misses)])
    yield state.module.print_readable(print_output=False)


def _size(call: LayerCall) -> str:
    if not call.complete:
        return "which ends in another graph"
    operations = f"{call.first.name} to {call.last.name}" if call.region else "none"
    return f"{len(call.region)} operations ({operations}), outputs: {', '.join(node.name for node in call.outputs) or 'none'}"
