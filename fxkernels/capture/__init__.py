"""From a model to graphs in which every annotated call is marked: by Dynamo (`dynamo`), or by symbolic tracing (`symbolic`).

Nothing is decided here. `_torch` has every private torch API that fxkernels uses.
"""
