"""A kernel layer of a repository on the Hub, as the value that stands in a mapping."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..kernels.layer import KernelLayer
from ..target import Target
from .builds.kernel_dependency import KernelDependency
from .loading import load_layer
from .opening import open_repository
from .remote.trust import is_allowed
from .repository import check_layer_name, check_when, machine
from .snapshot import LocalSnapshot


@dataclass(frozen=True, slots=True, init=False)
class LayerRepository:
    """A layer of a kernel repository on the Hub.

    Making one asks for nothing: mappings are written before it is known which of their repositories are needed. It is compared, hashed and
    pickled by value. ``HF_HOME``, ``HF_ENDPOINT``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` mean what they mean for huggingface_hub.

    Args:
        repo_id: The repository, ``organization/name``.
        layer_name: Name of the class in the repository's ``layers``.
        revision: A commit, tag or branch. A full commit that is in the cache is loaded without a request. Either this or `version`.
        version: A version of the kernel's interface: the newest commit of the branch ``v<version>``, for which the Hub is asked once per
            process. If it cannot be reached, the commit that it named last time is used, with a warning.
        trust_remote_code: Whose code may run. By default that of publishers that the Hub calls trusted; True for this repository and what
            it depends on; or the ids of repositories that are allowed besides.
        when: Constraints on the calls for which it is used, besides those that the repository declares: one text or several.

    Raises:
        ValueError: If not exactly one of `revision` and `version` is given, a name makes no sense, or a text in `when` is no constraint; it
            shows where and what would be one.
        TypeError: If `trust_remote_code` is neither a truth value nor a sequence of repository ids, or `when` holds no strings.

    Example:
        >>> norm = LayerRepository("acme/norms", layer_name="RMSNorm", version=1, when="dim(hidden_states, -1) % 8 == 0")
    """

    repo_id: str
    layer_name: str
    revision: str | None
    version: int | None
    trust_remote_code: bool | tuple[str, ...]
    when: tuple[str, ...]

    def __init__(
        self,
        repo_id: str,
        *,
        layer_name: str,
        revision: str | None = None,
        version: int | None = None,
        trust_remote_code: bool | Sequence[str] = False,
        when: str | Sequence[str] = (),
    ) -> None:
        KernelDependency(repo_id, version=version, revision=revision)  # checks the names, and that one of the two is given
        is_allowed(repo_id, trust_remote_code)  # checks its type
        object.__setattr__(self, "repo_id", repo_id)
        object.__setattr__(self, "layer_name", check_layer_name(layer_name))
        object.__setattr__(self, "revision", revision)
        object.__setattr__(self, "version", version)
        trusted = trust_remote_code if isinstance(trust_remote_code, bool) else tuple(trust_remote_code)
        object.__setattr__(self, "trust_remote_code", trusted)
        object.__setattr__(self, "when", check_when(when))

    def load(self) -> type[nn.Module]:
        """Return the layer's class for this machine, for its accelerator where there is one.

        Raises:
            RepositoryError: As `load_for`.
        """
        return self.load_for(machine()).cls

    def load_for(self, target: Target) -> KernelLayer:
        """Return the layer from the build that fits `target`, downloaded if it is not in the cache.

        Raises:
            RepositoryError: With code ``untrusted``, ``no_variant``, ``offline``, ``digest`` or ``load_error``; the message says what was
                wanted, why it cannot be had and what to do.
        """
        find = functools.partial(open_repository, trust_remote_code=self.trust_remote_code)
        snapshot = find(KernelDependency(self.repo_id, version=self.version, revision=self.revision))
        override = str(snapshot.path) if isinstance(snapshot, LocalSnapshot) else None
        return load_layer(snapshot, self.layer_name, target, dependencies=find, override=override, when=self.when)
