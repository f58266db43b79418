"""A repository on the Hub at one commit: its builds, and the files of the chosen one, in huggingface_hub's cache.

Three things are fetched, each once and only when it is needed: the list of the commit's files, the ``metadata.json`` of builds that may
fit, and the chosen build. A build is used only if it is complete and each of its files is the one that the commit has.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import RepositoryError
from ..builds.digests import Digests, verify_files
from ..builds.metadata import FILE_NAME, Metadata, read_metadata
from ..builds.paths import BLOBS, BUILD, check_relative_path, variant_files
from . import client
from .cache import CachedRepository, ListedFile, files_of_build
from .retries import tried_again

_log = logging.getLogger("fxkernels")

_THREADS = 8  # as many as huggingface_hub uses for a snapshot


@dataclass(frozen=True)
class HubSnapshot:
    """A repository on the Hub at one commit. Making one sends no request.

    Args:
        repo_id: Organization and name.
        commit: The full commit.
    """

    repo_id: str
    commit: str

    @property
    def name(self) -> str:
        return self.repo_id

    @property
    def revision(self) -> str:
        return self.commit

    @property
    def where(self) -> str:
        return f"{self.repo_id}@{self.commit[:7]}"

    def variants(self) -> tuple[str, ...]:
        names = {parts[1] for path in self.listing if len(parts := path.split("/")) > 2}
        if not names:
            raise RepositoryError(
                "load_error", f"{self.where} has nothing under {BUILD}/: it is no kernel repository, or nothing was built yet"
            )
        return tuple(sorted(names))

    def metadata(self, variant: str) -> Metadata:
        if FILE_NAME not in self.files(variant):
            raise RepositoryError("load_error", f"{self.where} has no {BUILD}/{variant}/{FILE_NAME}; every build variant needs one")
        (file,) = self.fetch(variant, [FILE_NAME]).values()
        return read_metadata(file.parent)

    def directory(self, variant: str) -> Path:
        self._download_missing(variant, self.files(variant))
        return self._build(variant)

    def verify(self, variant: str) -> Digests | None:
        directory = self._build(variant)
        files = variant_files(directory, self._cached.folder)
        self._check(variant, files)
        digest = read_metadata(directory).digest
        verify_files(files, digest, f"{self.where} ({variant})")
        return digest

    def files(self, variant: str) -> dict[str, ListedFile]:
        """Return the files of a build, by path in the variant's directory."""
        return files_of_build(self.listing, variant)

    def fetch(self, variant: str, names: Sequence[str]) -> dict[str, Path]:
        """Return where these files of a build are, downloaded if need be; each was compared with the commit's list."""
        self._download_missing(variant, names)
        listed, found = self.files(variant), {name: self._build(variant) / name for name in names}
        wrong = [name for name, path in found.items() if not listed[name].has_content_of(path)]
        if wrong:
            raise self._changed(variant, [f"{name} is not the file that the commit has" for name in wrong])
        return found

    @functools.cached_property
    def listing(self) -> Mapping[str, ListedFile]:
        """The files under ``build/`` at this commit, from the cache or else from the Hub."""
        known = self._cached.listing(self.commit)
        return known if known is not None else self._fetch_listing()

    @functools.cached_property
    def _cached(self) -> CachedRepository:
        return CachedRepository.of(self.repo_id)

    def _build(self, variant: str) -> Path:
        return self._cached.snapshot(self.commit) / BUILD / variant

    # --- from the Hub ---

    def _fetch_listing(self) -> dict[str, ListedFile]:
        if client.offline():
            sizes = client.known_listing(self.repo_id, self.commit)
            if sizes is None:
                raise self._not_cached("nothing says which files it has")
            return {path: ListedFile(size) for path, size in sizes.items() if path.startswith(f"{BUILD}/")}
        with client.hub_errors(self.repo_id, f"to list the files of {self.commit[:7]}"):
            entries = client.tree(self.repo_id, self.commit, BUILD)
            listing = {check_relative_path(entry["path"], self.where): _listed(entry) for entry in entries if entry["type"] == "file"}
        if not listing:
            return listing  # an error follows; an empty list in the cache would repeat it for ever
        try:
            self._cached.write_listing(self.commit, listing)
        except OSError as error:
            _log.warning("the list of the files of %s cannot be written into the cache (%s); it will be asked for again", self.where, error)
        return listing

    def _download_missing(self, variant: str, names: Iterable[str]) -> None:
        """Download the files that are not in the cache. A file with other content than the commit has is removed again."""
        snapshot = self._cached.snapshot(self.commit)
        paths = [f"{BUILD}/{variant}/{name}" for name in names]
        missing = [path for path in paths if not os.path.isfile(f"{snapshot}/{path}")]
        if not missing:
            return
        if client.offline():
            raise self._not_cached(f"{_some(missing)} {'is' if len(missing) == 1 else 'are'} missing")
        with client.hub_errors(self.repo_id, f"to download {_some(missing)} of {self.commit[:7]}"):
            _download(self.repo_id, self.commit, missing)
        wrong = [path for path in missing if not self.listing[path].has_content_of(snapshot / path)]
        for path in wrong:
            _discard(snapshot / path)
        if wrong:
            # Either the file or the list is wrong, so both are fetched again.
            self._cached.forget_listing(self.commit)
            raise RepositoryError(
                "digest",
                f"{self.where}: other content than the commit has was downloaded for {_some(wrong)}, and was removed again\n"
                "  Load it again. If that does not help, something between here and the Hub changes what it sends.",
            )

    def _not_cached(self, why: str) -> RepositoryError:
        return RepositoryError(
            "offline",
            f"{self.where} is not, or only partly, in the cache ({self._cached.folder}): {why}, and {client.why_offline()}\n"
            "  Load it once with the network; `fxkernels download` does that too.",
        )

    # --- what is there ---

    def _check(self, variant: str, files: Mapping[str, Path]) -> None:
        """Check that a build has the files that the commit has. Files that `verify_files` reads are not read here."""
        listed = self.files(variant)
        problems = [f"{name} is missing" for name in listed if name not in files]
        problems += [f"{name} is not part of it" for name in files if name not in listed]
        changed = [name for name, file in listed.items() if name in files and not _may_be(files[name], file)]
        problems += [f"{name} is not the file that the commit has" for name in changed]
        if problems:
            raise self._changed(variant, problems)

    def _changed(self, variant: str, problems: list[str]) -> RepositoryError:
        return RepositoryError(
            "digest",
            f"{self.where} ({variant}) in the cache is not what the Hub has at this commit: {'; '.join(sorted(problems))}\n"
            f"  Delete {self._cached.folder}, and load the kernel again: it is then downloaded anew.",
        )


def _may_be(path: Path, listed: ListedFile) -> bool:
    if os.stat(path).st_size != listed.size:
        return False
    if path.parent.name == BLOBS:
        # The name is the hash of the content, and verify_files checks that.
        return listed.has_blob_name(path.name)
    return listed.has_content_of(path)


def _download(repo_id: str, commit: str, paths: list[str]) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import tqdm

    def one(path: str) -> None:
        tried_again(lambda: hf_hub_download(repo_id, path, repo_type=client.KIND, revision=commit, library_name="fxkernels"))

    with ThreadPoolExecutor(min(_THREADS, len(paths)), thread_name_prefix="fxkernels-download") as pool:
        futures = [pool.submit(one, path) for path in paths]
        try:
            bar: Iterable[Future[None]] = tqdm(futures, desc=f"Fetching {repo_id}@{commit[:7]}", unit="file", leave=False)  # type: ignore[no-untyped-call]
            for future in bar:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _listed(entry: Mapping[str, Any]) -> ListedFile:
    lfs = entry.get("lfs")
    if lfs is not None:
        return ListedFile(int(lfs["size"]), sha256=str(lfs["oid"]))
    return ListedFile(int(entry["size"]), sha1=str(entry["oid"]))


def _discard(path: Path) -> None:
    blob = path.resolve()
    for file in (path, blob):
        with contextlib.suppress(OSError):
            file.unlink()


def _some(paths: Iterable[str]) -> str:
    names = sorted(paths)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
