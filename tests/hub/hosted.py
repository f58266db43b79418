"""What lies on the loopback Hub: repositories as commits with branches and tags, and files as the Hub names and lists them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

LFS_SUFFIXES = (".so", ".bin")


@dataclass
class Repository:
    """A repository on the loopback Hub: the files of each commit, and the names that point to commits."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    renamed_to: str | None = None

    def commit_of(self, revision: str) -> str | None:
        named = self.branches.get(revision) or self.tags.get(revision)
        if named or revision in self.commits:
            return named or revision
        short = [commit for commit in self.commits if len(revision) >= 7 and commit.startswith(revision)]
        return short[0] if len(short) == 1 else None


def git_blob_sha1(content: bytes) -> str:
    """The name that git gives a file with this content."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def lfs_pointer(content: bytes) -> bytes:
    """What git has in the place of an LFS file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(content).hexdigest()}\nsize {len(content)}\n".encode()


def entry(path: str, content: bytes) -> dict[str, object]:
    """How the Hub lists a file."""
    if not path.endswith(LFS_SUFFIXES):
        return {"type": "file", "oid": git_blob_sha1(content), "size": len(content), "path": path}
    pointer = lfs_pointer(content)
    lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": len(pointer)}
    return {"type": "file", "oid": git_blob_sha1(pointer), "size": len(content), "path": path, "lfs": lfs}


def files_of(directory: Path) -> dict[str, bytes]:
    """Return the files of a directory, without byte code."""
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


def as_bytes(text: bytes | str) -> bytes:
    """Return a file's content, given as text or bytes."""
    return text.encode() if isinstance(text, str) else text
