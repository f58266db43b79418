"""Source locations for people: without what only says where this machine keeps its packages."""

from __future__ import annotations

import re
from pathlib import Path

_PACKAGES = re.compile(r".*[/\\](?:site|dist)-packages[/\\]")


def short_location(location: str) -> str:
    """Return a ``file:line`` as seen from the installed packages or from the current directory, if it lies in one of them.

    Example:
        >>> short_location("/usr/lib/python3/site-packages/transformers/models/llama/modeling_llama.py:52")
        'transformers/models/llama/modeling_llama.py:52'
    """
    in_packages = _PACKAGES.match(location)
    if in_packages is not None:
        return location[in_packages.end() :]
    here = f"{Path.cwd()}/"
    return location.removeprefix(here)
