"""What happened to every layer call: the data (`model`), its face for users (`report`), where it is collected (`recorder`), and renderings.

Renderings know the data only, and compute no facts.
"""
