"""`fxkernels admitted`: the records of kernels that were probed on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..hub import read_lock
from .output import CommandOutput, paragraph, prints_output

if TYPE_CHECKING:
    from ..admission.records import Record

_SHORT = 12


@click.group(short_help="List, show, ship or forget the records of probed kernels.")
def admitted() -> None:
    """Show the records of admission: which kernel was probed for which form of call, and the verdict.

    They are small files in the cache directory (FXKERNELS_CACHE, else HF_HOME/fxkernels), under admitted/. Records of locked kernels can be
    shipped with the lock file. Other records can be shipped as a copy of that directory, which FXKERNELS_RECORDS names on other machines of
    the same kind.
    """


@admitted.command("list")
@click.option("--refused", is_flag=True, help="Only kernels that were refused.")
@prints_output
def list_records(refused: bool) -> CommandOutput:
    """List all records, one line each.

    \b
    Examples:
      fxkernels admitted list
      fxkernels admitted list --refused --json
    """
    from ..admission import records

    found = [record for record in records.every() if not refused or record.verdict.result == "refused"]
    lines = [f"{record.key[:_SHORT]}  {_outcome(record):<16} {record.kernel}, {record.mode}" for record in found]
    if not found:
        lines = [f"nothing in {records.records_directory()}"]
    return CommandOutput({"records": [record.as_dict() for record in found]}, tuple(lines))


@admitted.command("show")
@click.argument("key")
@prints_output
def show_record(key: str) -> CommandOutput:
    """Show one record with its evidence. The first characters of the key will do."""
    record = _only(key)
    verdict, evidence = record.verdict, record.verdict.evidence
    lines = [f"key      {record.key}", f"kernel   {record.kernel}", f"mode     {record.mode}", f"torch    {record.torch}"]
    lines += paragraph(f"{_outcome(record)}{': ' if verdict.message else ''}{verdict.message}", " " * 9, "verdict  ")
    lines += ["inputs", *(f"  {line}" for line in record.inputs)]
    lines += [f"runs     {evidence.get('runs', 0)}"]
    for what, numbers in evidence.get("errors", {}).items():
        lines.append(f"  {what}: off by {numbers['error']}, may be by {numbers['tolerance']} ({numbers['by']}, {numbers['values']} values)")
    for note in evidence.get("notes", []):
        lines += paragraph(note, "    ", "  - ")
    if evidence.get("output"):
        lines += ["what it printed", *(f"  {line}" for line in str(evidence["output"]).splitlines())]
    return CommandOutput(record.as_dict(), tuple(lines))


@admitted.command("ship")
@click.argument("lockfile", type=click.Path(path_type=Path, exists=True, dir_okay=False), default="fxkernels.lock")
@prints_output
def ship_records(lockfile: Path) -> CommandOutput:
    """Copy the records of locked kernels into a directory beside the lock file, for other machines to read.

    The directory has the lock file's name with the ending .admitted. Records of kernels that the lock does not have, or has at another
    commit, are removed from it. Commit it with the lock file: a program that loads through the lock reads it before the cache, so that a
    kernel that was probed here is not probed there, on a device, torch and Triton of the same kind.

    \b
    Examples:
      fxkernels admitted ship
      fxkernels admitted ship path/to/fxkernels.lock
    """
    from ..admission import records

    locked = {(entry.repo_id, entry.commit) for entry in read_lock(lockfile).repositories}
    directory = records.shipped_with(lockfile)
    shipped, removed = records.ship(directory, lambda record: (record.repository, record.state) in locked)
    lines = [f"{directory}: {len(shipped)} {'record' if len(shipped) == 1 else 'records'} of {len(locked)} locked kernel repositories"]
    lines += [f"  {record.key[:_SHORT]}  {_outcome(record)}  {record.kernel}" for record in shipped]
    lines += [f"  removed {key[:_SHORT]}" for key in removed]
    if not shipped:
        lines.append("The cache has no record about them: run the model once on this machine.")
    return CommandOutput({"directory": str(directory), "shipped": [record.key for record in shipped], "removed": removed}, tuple(lines))


@admitted.command("forget")
@click.argument("keys", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Forget all records.")
@prints_output
def forget_records(keys: tuple[str, ...], everything: bool) -> CommandOutput:
    """Remove records, so that their kernels are probed again when they are next used.

    \b
    Examples:
      fxkernels admitted forget 3f2a91c04e7b
      fxkernels admitted forget --all
    """
    from ..admission import records

    if everything == bool(keys):
        raise click.UsageError("name the keys to forget, or say --all")
    found = list(records.every()) if everything else [_only(key) for key in keys]
    removed = [record for record in found if records.forget(record.key)]
    lines = tuple(f"forgot {record.key[:_SHORT]}  {record.kernel}" for record in removed)
    return CommandOutput({"forgotten": [record.key for record in removed]}, lines or ("there was nothing to forget",))


def _only(key: str) -> Record:
    """Return the only record whose key begins with these characters."""
    from ..admission import records

    found = [record for record in records.every() if record.key.startswith(key)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError(f"no record begins with {key!r}; `fxkernels admitted list` shows all")
    raise ValueError(f"{len(found)} records begin with {key!r}; write more of the key")


def _outcome(record: Record) -> str:
    verdict = record.verdict
    return verdict.result if verdict.code is None else f"{verdict.result} {verdict.code}"
