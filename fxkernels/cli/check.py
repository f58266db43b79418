"""`fxkernels check`: fails if a call that had a kernel does not get one any more."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from .diff import as_value, saved_report
from .explain import explained
from .factory import target_arguments

if TYPE_CHECKING:
    from ..report.compare import Comparison
    from ..report.report import Report
    from ..target import Target


@click.command(short_help="Fail when a model has lost kernels since a report was saved.")
@click.argument("saved", metavar="REPORT.json", callback=saved_report)
@target_arguments
@click.option(
    "--for", "device", metavar="DEVICE", help='The machine, e.g. "cuda:sm90".  [default: the report\'s, with the torch of this one]'
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(saved: Report, target: str, device: str | None, as_json: bool, **how: Any) -> None:
    """Explain TARGET now and compare it with a saved report: an upgrade of torch, of a model's code or of a kernel repository should not
    drop a kernel silently.

    REPORT.json was written by `fxkernels explain TARGET --json REPORT.json`, and is in the repository of the project. A call that had a
    kernel in it, or might have had one (`unknown`), must have one now, or might have one, or be covered by one. Calls that have one only
    now are fine, and so is another kernel instead of the old one. Nothing is rewritten, fetched or run.

    The exit code is 0 if no kernel was lost, 1 if one was, 2 if the report or the model cannot be loaded.

    \b
    Examples:
      fxkernels explain mymodel:build --json report.json
      fxkernels check report.json mymodel:build
      fxkernels check report.json hf:llama --config num_hidden_layers=2
      fxkernels check report.json mymodel:build --for "cuda:sm90"
    """
    wanted = [device] if device is not None else _targets(saved)
    _, now = explained(target, targets=wanted, **how)
    comparison = saved.compare(now)  # type: ignore[arg-type] # one target, so one report
    lost = comparison.lost
    if as_json:
        click.echo(json.dumps({"ok": not lost, **as_value(comparison)}, indent=2, sort_keys=True))
        click.get_current_context().exit(1 if lost else 0)
    click.echo(_verdict(saved, comparison))
    if lost:
        click.echo(f"If that is meant, save the report anew: fxkernels explain {target} --json REPORT.json", err=True)
    click.get_current_context().exit(1 if lost else 0)


def _verdict(saved: Report, comparison: Comparison) -> str:
    """Return what was lost, why, and the likely cause; if nothing was lost, what was gained."""
    from ..report.compare import render_comparison

    had, lost = sum(call.status in ("rewritten", "unknown") for call in saved.calls), comparison.lost
    if lost:
        head = f"{len(lost)} of {had} layer calls lost their kernel"
        return render_comparison(replace(comparison, calls=lost), head=head)
    better = f"; {len(comparison.gained)} more have one now, save the report anew to keep them" if comparison.gained else ""
    return f"no kernel was lost: {had} layer {'call has' if had == 1 else 'calls have'} one, or might, as before{better}"


def _targets(saved: Report) -> list[str]:
    """Return the report's targets with this installation's torch; an empty list if the report was made for this machine."""
    from ..target import Target

    here = {each.device: Target.of_machine(each.device) for each in saved.targets}
    if all(_same_machine(each, here[each.device]) for each in saved.targets):
        return []
    if len(saved.targets) > 1:
        names = ", ".join(each.device for each in saved.targets)
        raise click.UsageError(f"the report was made for several devices that are not all here ({names}); name one with --for")
    (only,) = saved.targets
    return [str(replace(only, torch=here[only.device].torch))]


def _same_machine(one: Target, other: Target) -> bool:
    return (one.device, one.capability, one.os, one.cpu) == (other.device, other.capability, other.os, other.cpu)
