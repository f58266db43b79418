"""From a model to graphs in which every annotated call can be told apart: by Dynamo (`dynamo`), or by symbolic tracing (`symbolic`).

Nothing is decided here. Every private torch API that fxkernels needs stands in `_torch`.
"""
