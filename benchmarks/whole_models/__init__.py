"""Whole models, with every peer in one process: what is run (`workloads`), who runs it (`sides`), how sides are kept apart (`apart`), how
they are measured (`measuring`), and how the rows become a table (`table`). The command is `benchmarks/models.py`.
"""
