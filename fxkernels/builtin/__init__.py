"""Kernel repositories that ship with the library, in Hub layout (`<name>/build/<variant>/`), and the mapping that offers them.

They are portable: plain torch, no compiler. What is measured about them stands in `benchmarks/README.md`. Nothing here is imported
before a kernel is loaded.
"""

from __future__ import annotations

from pathlib import Path

from fxkernels.hub import LocalLayerRepository

__all__ = ["BUILTIN_LAYERS", "builtin_mapping", "builtin_repository"]

_DIRECTORIES = {"RMSNorm": "rmsnorm", "SiluAndMul": "activation", "rotary_pos_emb": "rotary"}

BUILTIN_LAYERS: tuple[str, ...] = tuple(_DIRECTORIES)
"""Every layer name for which a kernel ships with the library."""

# At least 1.1 times as fast as the eager reference in every row of benchmarks/results/builtin_cpu.jsonl with 512 tokens or more.
_DEFAULT_LAYERS = ("RMSNorm", "rotary_pos_emb")


def builtin_repository(layer_name: str) -> LocalLayerRepository:
    """Return the built-in repository of one layer, whether or not the default mapping offers it.

    Args:
        layer_name: One of `BUILTIN_LAYERS`.

    Raises:
        ValueError: If no kernel for that layer ships with the library.

    Example:
        >>> register_kernel_mapping({"SiluAndMul": {"cpu": builtin_repository("SiluAndMul")}})
    """
    if layer_name not in _DIRECTORIES:
        raise ValueError(f"no built-in kernel for {layer_name!r}; there are: {', '.join(BUILTIN_LAYERS)}")
    return LocalLayerRepository(Path(__file__).parent / _DIRECTORIES[layer_name], layer_name=layer_name)


def builtin_mapping() -> dict[str, dict[str, LocalLayerRepository]]:
    """Return the mapping of the built-in kernels that beat the eager reference: layer name -> device -> repository.

    A new dictionary at each call, ready for `register_kernel_mapping`, `use_kernel_mapping` or ``kernelize(mapping=...)``.

    Example:
        >>> model = kernelize(model, mapping=builtin_mapping())
    """
    return {layer_name: {"cpu": builtin_repository(layer_name)} for layer_name in _DEFAULT_LAYERS}
