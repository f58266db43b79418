"""`fxkernels info` and `fxkernels versions`: what a kernel repository has, and the commits of its versions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..hub import (
    CachedRepository,
    HubSnapshot,
    LocalSnapshot,
    Metadata,
    RepositoryRequest,
    Snapshot,
    available_versions,
    choose_variant,
    is_layers_file,
    is_repo_id,
    listed_layers,
    resolve,
    variant_files,
    why_not_arch,
    why_not_trusted,
)
from .output import CommandOutput, paragraph, prints_output, request_options, size, target_of, target_option

if TYPE_CHECKING:
    from ..target import Target


@click.command(short_help="Show a repository's builds and layers.")
@click.argument("subject", metavar="REPO|DIRECTORY")
@request_options
@target_option
@prints_output
def info(subject: str, version: int | None, revision: str | None, target: str | None) -> CommandOutput:
    """Show which build of a kernel repository a target gets and why not the others, its metadata, and its layers.

    The default is the newest version. The layers are read from the source. Nothing is run, so no trust is needed. The exit code is 1 if no
    build fits the target.

    \b
    Examples:
      fxkernels info kernels-community/activation
      fxkernels info acme/norms --version 1 --for "cuda:sm90 torch2.11 cu130"
      fxkernels info ./my-kernel --for cpu
    """
    wanted = target_of(target)
    snapshot, head, lines = _opened(subject, version, revision)
    builds, chosen = _builds(snapshot, wanted)
    value: dict[str, Any] = {**head, "target": str(wanted), "builds": builds, "chosen": chosen, "metadata": None, "layers": []}
    lines += [f"target     {wanted}{'' if target else ' (this machine)'}", ""]
    for build in builds:
        mark = "> " if build["name"] == chosen else "  "
        lines += paragraph(f"{build['name']}: {build['verdict']}", "    ", mark)
    if chosen is None:
        return CommandOutput(value, tuple(lines), f"{snapshot.where} has no build for {wanted}")
    metadata = snapshot.metadata(chosen)
    value["metadata"] = _described(metadata)
    value["layers"] = _layers(snapshot, chosen)
    lines += [
        "",
        chosen,
        *_metadata_lines(metadata),
        *_file_lines(snapshot, chosen),
        "",
        "layers, read from the source",
        *_layer_lines(value["layers"]),
    ]
    return CommandOutput(value, tuple(lines))


def _opened(subject: str, version: int | None, revision: str | None) -> tuple[Snapshot, dict[str, Any], list[str]]:

    if not is_repo_id(subject):
        if not Path(subject).is_dir():
            raise click.UsageError(f"{subject} is no directory, and no repository such as acme/norms")
        if (version, revision) != (None, None):
            raise click.UsageError("--version and --revision belong to a repository, and this is a directory")
        return LocalSnapshot(Path(subject)), {"repository": subject, "commit": None}, [f"directory  {subject}"]
    if (version, revision) == (None, None):
        version = max(available_versions(subject), default=None)
        if version is None:
            raise click.UsageError(f"{subject} has no versions; name a branch, tag or commit with --revision")
    request = RepositoryRequest(subject, version=version, revision=revision)
    commit = resolve(request)
    publisher, reason = subject.split("/")[0], why_not_trusted(subject, commit)
    lines = [f"repository {request}", f"commit     {commit}"]
    lines += paragraph(f"{publisher}, trusted" if reason is None else f"{publisher}, not trusted: {reason}", " " * 11, "publisher  ")
    return HubSnapshot(subject, commit), {"repository": subject, "commit": commit, "trusted_publisher": reason is None}, lines


def _builds(snapshot: Snapshot, target: Target) -> tuple[list[dict[str, str]], str | None]:
    from ..errors import RepositoryError

    choice = choose_variant(snapshot.variants(), target)
    verdicts = {rejected.name: rejected.reason for rejected in choice.rejected}
    chosen: str | None = None
    for name in choice.fitting:
        try:
            reason = why_not_arch(snapshot.metadata(name), target)
        except RepositoryError as error:
            reason = f"its metadata cannot be used: {error}"
        if reason is None and chosen is None:
            chosen, reason = name, "fits best"
        verdicts[name] = reason or f"fits too, but {chosen} comes first"
    ordered = sorted(verdicts, key=lambda name: (choice.fitting.index(name) if name in choice.fitting else len(verdicts), name))
    return [{"name": name, "verdict": verdicts[name]} for name in ordered], chosen


def _described(metadata: Metadata) -> dict[str, Any]:
    return {
        "name": metadata.name,
        "id": metadata.id,
        "version": metadata.version,
        "license": metadata.license,
        "backend": metadata.backend,
        "archs": list(metadata.archs) if metadata.archs is not None else None,
        "python-depends": list(metadata.python_depends),
        "kernel-depends": [str(dependency) for dependency in metadata.kernel_depends],
        "kernels-minver": metadata.minver,
        "upstream": metadata.upstream,
        "source": metadata.source,
        "digests": metadata.digest.algorithm if metadata.digest is not None else None,
    }


def _metadata_lines(metadata: Metadata) -> list[str]:
    lines: list[str] = []
    for key, value in _described(metadata).items():
        text = ", ".join(value) if isinstance(value, list) else str(value)
        if value or key == "version":
            lines += paragraph(text, " " * 18, f"  {key:<16}")
    return lines


def _file_lines(snapshot: Snapshot, variant: str) -> list[str]:
    sizes = _sizes(snapshot, variant)
    return [f"  {'files':<16}{len(sizes)}, {size(sum(sizes.values()))}"]


def _sizes(snapshot: Snapshot, variant: str) -> dict[str, int]:
    """Return the size of each file of a build, by path in it. Nothing is downloaded."""

    if isinstance(snapshot, HubSnapshot):
        return {name: file.size for name, file in snapshot.files(variant).items()}
    directory = snapshot.directory(variant)
    return {path: file.stat().st_size for path, file in variant_files(directory, directory.parent.parent).items()}


def _layers(snapshot: Snapshot, variant: str) -> list[dict[str, Any]]:

    names = [name for name in _sizes(snapshot, variant) if is_layers_file(name)]
    if isinstance(snapshot, HubSnapshot):
        paths = list(snapshot.fetch(variant, names).values())
    else:
        paths = [snapshot.directory(variant) / name for name in names]
    return [dataclasses.asdict(layer) for layer in listed_layers(path.read_text(encoding="utf-8", errors="replace") for path in paths)]


def _layer_lines(layers: list[dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    for layer in layers:
        lines += paragraph(f"{layer['name']}({layer['signature']})", "    ", "  ")
        said = [f"{flag} = {layer[flag]}" for flag in ("has_backward", "can_torch_compile") if layer[flag] is not None]
        lines += [f"    {', '.join(said)}"] if said else []
    return lines or ["  none"]


@click.command(short_help="List the versions of a kernel repository.")
@click.argument("repo_id", metavar="REPO")
@prints_output
def versions(repo_id: str) -> CommandOutput:
    """List the versions of a kernel repository with their current commits.

    With HF_HUB_OFFLINE=1, the versions that were resolved before. The exit code is 1 if there are none.

    \b
    Examples:
      fxkernels versions kernels-community/activation
      fxkernels versions kernels-community/activation --json
    """

    found = available_versions(repo_id)
    cached = set(CachedRepository.of(repo_id).commits())
    lines = [f"{repo_id}"]
    lines += [f"  version {version:<4} {commit}{'  in the cache' if commit in cached else ''}" for version, commit in found.items()]
    entries = [{"version": version, "commit": commit, "cached": commit in cached} for version, commit in found.items()]
    value = {"repository": repo_id, "versions": entries}
    if not found:
        return CommandOutput(value, (), f"{repo_id} has no versions (branches v1, v2 ...); name a branch, tag or commit with --revision")
    return CommandOutput(value, tuple(lines))
