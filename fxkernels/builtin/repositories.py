"""The built-in repositories by layer name, and the mapping that offers those which are meant to be the default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fxkernels.hub import LocalLayerRepository
from fxkernels.mode import Mode

_FOLDERS = {
    "attention": ("attention",),
    "rmsnorm": ("AddRMSNorm", "RMSNorm", "RMSNormRoundedLast", "RMSNormZeroCentered", "RMSNormGated", "rms_norm", "add_rms_norm"),
    "layernorm": ("LayerNorm", "add_layer_norm", "norm_modulate"),
    "activation": (
        "SiluAndMul",
        "SwiGLU",
        "GeGLU",
        "GeluAndMul",
        "GeluTanhAndMul",
        "SiLU",
        "GeLU",
        "GeluTanh",
        "NewGELU",
        "FastGELU",
        "QuickGELU",
    ),
    "rotary": ("rotary_pos_emb", "rotary_pos_emb_in_dtype", "rotary_pos_emb_interleaved", "qk_norm_rotary"),
    "cross_entropy": ("LinearCrossEntropyLoss", "ForCausalLMLoss", "linear_cross_entropy"),
    "causal_conv1d": ("causal_conv1d_fn",),
    "experts": ("experts",),
}
_FOLDER_OF = {layer_name: folder for folder, layer_names in _FOLDERS.items() for layer_name in layer_names}

BUILTIN_LAYERS: tuple[str, ...] = ("RMSNorm", "SiluAndMul", "rotary_pos_emb")
"""The layers of a decoder for which a CPU kernel ships with the library."""

BUILTIN_CUDA_LAYERS: tuple[str, ...] = tuple(name for name in _FOLDER_OF if name != "experts")
"""Every layer for which a Triton kernel ships with the library. Not each one is a layer name of models: some are other bodies of one."""

# At least 1.1 times as fast as the eager reference in every row of benchmarks/results/builtin_cpu.jsonl with 512 tokens or more.
_DEFAULT_LAYERS = ("RMSNorm", "rotary_pos_emb")

# None is slower than the eager reference in a row of benchmarks/results/builtin_gpu.jsonl. Left out is what is one operation of torch
# already and moves no byte too many: SiLU, GeLU, GeluTanh.
_DEFAULT_CUDA_LAYERS = (
    "LayerNorm",
    "RMSNormZeroCentered",
    "RMSNormGated",
    "SiluAndMul",
    "GeluAndMul",
    "GeluTanhAndMul",
    "NewGELU",
    "FastGELU",
    "QuickGELU",
    "LinearCrossEntropyLoss",
    "ForCausalLMLoss",
    "causal_conv1d_fn",
    "attention",  # decoding only, by its constraints; a fusion, whose rows are in benchmarks/README.md
)

# Bodies under one layer name that differ in the dtype of the output, where weight or tables are wider than the input. The second is tried
# where the first misses.
_DEFAULT_CUDA_BODIES = {"RMSNorm": ("RMSNorm", "RMSNormRoundedLast"), "rotary_pos_emb": ("rotary_pos_emb", "rotary_pos_emb_in_dtype")}


def builtin_repository(layer_name: str) -> LocalLayerRepository:
    """Return the built-in repository of one layer, whether or not the default mapping offers it.

    Args:
        layer_name: One of `BUILTIN_CUDA_LAYERS`, or ``"experts"``, which has a build for CPUs only. Fusions, `BUILTIN_LAYERS` and
            ``"LinearCrossEntropyLoss"`` have one for CPUs too.

    Raises:
        ValueError: If no kernel for that layer ships with the library.

    Example:
        >>> register_kernel_mapping({"SiluAndMul": {"cpu": builtin_repository("SiluAndMul")}})
    """
    if layer_name not in _FOLDER_OF:
        raise ValueError(f"no built-in kernel for {layer_name!r}; there are: {', '.join(sorted(_FOLDER_OF))}")
    return LocalLayerRepository(Path(__file__).parent / _FOLDER_OF[layer_name], layer_name=layer_name)


def builtin_mapping() -> dict[str, dict[str, Any]]:
    """Return the mapping of the built-in kernels that are meant to be the default: layer name -> device -> repository, or -> modes.

    On CPUs and on CUDA these are the ones that beat the eager reference wherever they were measured.

    A new dictionary at each call, ready for `register_kernel_mapping`, `use_kernel_mapping` or ``kernelize(mapping=...)``.

    Example:
        >>> model = kernelize(model, mapping=builtin_mapping())
    """
    mapping: dict[str, dict[str, Any]] = {layer_name: {"cpu": builtin_repository(layer_name)} for layer_name in _DEFAULT_LAYERS}
    for layer_name in _DEFAULT_CUDA_LAYERS:
        mapping.setdefault(layer_name, {})["cuda"] = builtin_repository(layer_name)
    for layer_name, (first, second) in _DEFAULT_CUDA_BODIES.items():
        # Every mode of a model prefers the first of these two to the second.
        modes = {Mode.TRAINING | Mode.TORCH_COMPILE: builtin_repository(first), Mode.FALLBACK: builtin_repository(second)}
        mapping.setdefault(layer_name, {})["cuda"] = modes
    return mapping
