"""What happened to every layer call: the report as a value (`model`), how it comes about (`recorder`), and how it is shown.

Renderings compute no facts; what they show stands in the value.
"""
