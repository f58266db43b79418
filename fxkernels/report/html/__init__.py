"""The report as HTML: a page that is one file, and a summary for notebooks. Templates, style sheet and scripts are
beside it.

Each script adds one thing to a page that is complete without it.
"""

from .page import render_fragment, render_html

__all__ = ["render_fragment", "render_html"]
