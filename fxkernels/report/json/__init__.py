"""The report as JSON, for CI, other tools and the page that shows it: `to_json` writes it (`writing`), `from_json` reads it (`reading`).

What both agree on stands in `rows`; `schema.json` in the folder above says it to others, and docs/report-json.md explains it.
"""

from .reading import from_json
from .rows import SCHEMA
from .writing import to_json

__all__ = ["SCHEMA", "from_json", "to_json"]
