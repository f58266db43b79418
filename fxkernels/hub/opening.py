"""From the name of a repository to its snapshot: the user's own directory if there is one, else the Hub's, if its code may run."""

from __future__ import annotations

from collections.abc import Sequence

from .builds.kernel_dependency import KernelDependency
from .overrides import local_override
from .remote.download import HubSnapshot
from .remote.resolve import resolve
from .remote.trust import require_trust
from .snapshot import LocalSnapshot


def open_repository(request: KernelDependency, trust_remote_code: bool | Sequence[str]) -> LocalSnapshot | HubSnapshot:
    """Return the repository in the state that is asked for. Of the Hub's, nothing but its commit and its publisher was asked until then.

    Args:
        request: The repository, and the version or revision of it.
        trust_remote_code: See `fxkernels.hub.remote.trust`.

    Raises:
        RepositoryError: With code ``untrusted`` if its code may not run; as `fxkernels.hub.remote.resolve.resolve` if it cannot be found.
        ValueError: If ``FXKERNELS_LOCAL`` is malformed.
    """
    directory = local_override(request.repo_id)
    if directory is not None:
        return LocalSnapshot(directory, stands_for=request.repo_id)
    commit = resolve(request.repo_id, revision=request.revision, version=request.version)
    require_trust(request.repo_id, commit, trust_remote_code)
    return HubSnapshot(request.repo_id, commit)
