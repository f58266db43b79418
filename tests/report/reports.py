"""Reports made by hand, for the tests of everything that shows or stores one. No model is captured for them.

`small_report` has one call of everything, `llama_like` folds, `large_report` is for figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from fxkernels.decide.gates import names_of
from fxkernels.kernels.describe import Operation
from fxkernels.kernels.layer import KernelIdentity
from fxkernels.kernels.lowering.lowering import Lowering
from fxkernels.kernels.lowering.repairs import Repairs
from fxkernels.passes.gate import CandidateResult, GateResult
from fxkernels.passes.miss import Miss
from fxkernels.report.model import CallReport, Evidence, GraphDecision
from fxkernels.report.report import Report
from fxkernels.target import Target

CPU = Target("cpu", None, "2.13", None, "linux", "x86_64")
CUDA = Target("cuda", 90, "2.11", "cu130", "linux", "x86_64")
VERSIONS = (("fxkernels", "0.1.0"), ("torch", "2.13.0"), ("triton", "3.7.0"))

NORMS = KernelIdentity("acme/norms", "9a31f0c5" * 5, "RMSNorm", "torch-universal")
FAST_NORMS = KernelIdentity("acme/fast-norms", "0d1e2f3a" * 5, "RMSNorm", "torch213-cxx11-cpu-x86_64-linux")
MLP = KernelIdentity("acme/mlp", "v1", "GatedMLP", "torch213-cxx11-cu130-x86_64-linux")
ROTARY = KernelIdentity("rotary", None, "rotary_pos_emb", None)

TRACED = Lowering("traced", "its Python traces on fake tensors")
TRITON = Lowering("triton", "it launches Triton kernels", Repairs(recompute="the kernel has no backward"))
OPAQUE = Lowering("opaque", "its operators have no fake implementation", Repairs((0,)), ("hidden_states",))

WRONG_DTYPE = Miss(
    "dtype", "{name} is {got}; {kernel} takes {allowed}", {"name": "x", "got": "f32", "kernel": NORMS, "allowed": "bf16, f16"}
)
NOT_DENSE = Miss("layout", "{name} has stride {stride} in its last dimension, the kernel reads it as 1", {"name": "x", "stride": 2})
NO_BACKWARD = Miss("no_backward", "{kernel} has no backward and the layer is in training mode", {"kernel": NORMS})
MUTATION = Miss("mutation", "{node} writes into {target}, which exists outside of the call", {"node": "copy_", "target": "cache"})
NO_MAPPING = Miss(
    "no_mapping", "no kernel is mapped to layer name {layer!r}; mapped are: {mapped}", {"layer": "Linear", "mapped": "GatedMLP, RMSNorm"}
)
NO_BUILD = Miss(
    "no_variant", "{error}", {"error": "acme/rope has no build for torch 2.13 on cpu\n  it has: torch29-cxx11-cu128-x86_64-linux"}
)
EXCLUDED = Miss("excluded", "the path matches exclude=")
OVERRIDDEN = Miss("forward_overridden", "its class overrides the annotated forward")

NORM_BEFORE = (
    Operation("v0", "hidden_states.to(torch.float32)", "f32[2, 8, 64]", "model.py:31"),
    Operation("v1", "v0.pow(2)", "f32[2, 8, 64]", "model.py:32"),
    Operation("v2", "v1.mean(-1, keepdim=True)", "f32[2, 8, 1]", "model.py:32"),
    Operation("v3", "torch.rsqrt(v2 + 1e-06)", "f32[2, 8, 1]", "model.py:33"),
    Operation("v4", "v0 * v3", "f32[2, 8, 64]", "model.py:33"),
    Operation("v5", "v4.to(torch.bfloat16)", "bf16[2, 8, 64]", "model.py:33"),
    Operation("v6", "self.weight * v5", "bf16[2, 8, 64]", "model.py:33"),
)

CALL_GATES = names_of("call", "form")
CANDIDATE_GATES = names_of("candidate", "selection")
NORM_AFTER = (Operation("v6", "acme_norms_RMSNorm(hidden_states, self.weight)", "bf16[2, 8, 64]", "model.py:33"),)
MLP_BEFORE = (
    Operation("v0", "F.linear(x, self.gate_proj.weight)", "bf16[2, 8, 176]", "model.py:52"),
    Operation("v1", "F.silu(v0)", "bf16[2, 8, 176]", "model.py:52"),
    Operation("v2", "F.linear(x, self.up_proj.weight)", "bf16[2, 8, 176]", "model.py:52"),
    Operation("v3", "v1 * v2", "bf16[2, 8, 176]", "model.py:52"),
    Operation("v4", "F.linear(v3, self.down_proj.weight)", "bf16[2, 8, 64]", "model.py:52"),
)
MLP_AFTER = (
    Operation("v4", "acme_mlp_GatedMLP(x, self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight)", "bf16[2, 8, 64]", None),
)
SILU_INPUTS = ("input: bf16[2, 8, 176]",)
SILU_BEFORE = (Operation("v0", "F.silu(input)", "bf16[2, 8, 176]", "model.py:52"),)
ROTARY_BEFORE = (
    Operation("v0", "q * cos", "bf16[2, 4, 8, 16]", "model.py:12"),
    Operation("", "cache.copy_(v0)", "", "model.py:13"),
    Operation("v1", "k * cos", "bf16[2, 2, 8, 16]", "model.py:14"),
)

LAYERS = {
    "RMSNorm": ("model.RMSNorm", "model.py:28"),
    "GatedMLP": ("model.GatedMLP", "model.py:45"),
    "SiLU": ("torch.nn.modules.activation.SiLU", None),
    "rotary_pos_emb": ("model.rotary_pos_emb", "model.py:9"),
    "Linear": ("torch.nn.modules.linear.Linear", None),
}


def small_report() -> Report:
    """One call of everything: each status, candidates whose gates failed or are unknown, two graphs, a path that is called twice."""
    calls = (
        *(rewritten_norm(f"model.layers.{n}.input_layernorm", f"mul_{n}") for n in range(2)),
        call("model.layers.0.self_attn.rotary_pos_emb", "rotary_pos_emb", mutating_rotary("model.layers.0.input_layernorm#0")),
        call("model.layers.1.self_attn.rotary_pos_emb", "rotary_pos_emb", unknown_rotary("model.layers.1.input_layernorm#0")),
        *(
            c
            for n in range(2)
            for c in rewritten_mlp(f"model.layers.{n}.mlp", f"linear_{n}", f"model.layers.{n}.self_attn.rotary_pos_emb#0")
        ),
        call("model.norm", "RMSNorm", replace(REWRITTEN_NORM, node="mul_9"), missed_in_training(graph=1)),
        call("model.norm", "RMSNorm", replace(REWRITTEN_NORM, node="mul_10", evidence=Evidence("unverified")), index=1),
        call("model.embed_norm", "RMSNorm", GraphDecision(0, "excluded", None, (EXCLUDED,), gates=asked(CALL_GATES, EXCLUDED, "filter"))),
        call("model.projector.norm", "RMSNorm", not_captured("; a graph ended early: print is not traceable (model.py:70)")),
        call("model.projector.act", "SiLU", GraphDecision(-1, "not_captured", None, (OVERRIDDEN,))),
        call("lm_head.norm", "RMSNorm", wrong_dtype()),
        call("lm_head.proj", "Linear", unmapped()),
    )
    notes = (
        "captured by Dynamo, because self.training is read in model.py:61",
        "Dynamo's recompile limit was reached in forward (model.py:40): new inputs run the original code there",
    )
    return Report(calls, (), False, notes, "dynamo", "model.SmallModel", (CPU,), VERSIONS)


def llama_like(layers: int = 32, missed_in: Iterable[int] = ()) -> Report:
    """A decoder in which everything folds, but for the layers in `missed_in`, whose first norm got inputs of another dtype."""
    missed, calls, before = frozenset(missed_in), list[CallReport](), ""
    for n in range(layers):
        path = f"model.layers.{n}"
        for name, value in (("input_layernorm", 2 * n), ("post_attention_layernorm", 2 * n + 1)):
            norm = rewritten_norm(f"{path}.{name}", f"mul_{value}", before)
            calls.append(replace(norm, decisions=(wrong_dtype(before),)) if n in missed and name == "input_layernorm" else norm)
            before = norm.key
        calls += rewritten_mlp(f"{path}.mlp", f"linear_{n}", before)
        before = f"{path}.mlp#0"
    calls.append(rewritten_norm("model.norm", "mul_last", before))
    return Report(tuple(calls), (), False, (), "dynamo", "model.Llama", (CUDA,), VERSIONS)


def large_report(nodes: int = 10_000, experts: int = 32) -> Report:
    """A mixture of experts with exactly `nodes` layer calls, and ten times as many operations; every seventh layer has outliers."""
    calls: list[CallReport] = []
    for n, path in enumerate(f"model.layers.{n}" for n in range(nodes)):
        if len(calls) >= nodes:
            break
        calls.append(rewritten_norm(f"{path}.input_layernorm", f"mul_{2 * n}", calls[-1].key if calls else ""))
        rotary = mutating_rotary(calls[-1].key, f"copy__{n}") if n % 7 == 0 else unknown_rotary(calls[-1].key)
        calls.append(call(f"{path}.self_attn.rotary_pos_emb", "rotary_pos_emb", rotary))
        norm = rewritten_norm(f"{path}.post_attention_layernorm", f"mul_{2 * n + 1}", calls[-1].key)
        calls.append(norm)
        for expert in range(experts):
            calls += rewritten_mlp(f"{path}.mlp.experts.{expert}", f"linear_{n * experts + expert}", norm.key)
    return Report(tuple(calls[:nodes]), (), False, (), "dynamo", "model.MixtureOfExperts", (CUDA,), VERSIONS)


# --- single calls -----------------------------------------------------------------------------------------------------------------------


def call(path: str, layer_name: str, *decisions: GraphDecision, index: int = 0) -> CallReport:
    layer, location = LAYERS[layer_name]
    return CallReport(path, index, layer_name, layer, location, decisions)


def rewritten_norm(path: str, node: str, reads: str = "") -> CallReport:
    return call(path, "RMSNorm", replace(REWRITTEN_NORM, node=node, reads=(reads,) if reads else ()))


def rewritten_mlp(path: str, node: str, reads: str = "") -> Iterator[CallReport]:
    """An MLP that runs as an opaque operator, and the activation inside it."""
    yield call(path, "GatedMLP", replace(REWRITTEN_MLP, node=node, reads=(reads,) if reads else ()))
    inside = Miss("covered", "it happens inside {key}, which a kernel replaces", {"key": f"{path}#0"})
    yield call(f"{path}.act_fn", "SiLU", GraphDecision(0, "covered", None, (inside,), inputs=SILU_INPUTS, before=SILU_BEFORE))


def mutating_rotary(reads: str, node: str = "copy_") -> GraphDecision:
    miss = replace(MUTATION, data={**MUTATION.data, "node": node})
    gates = asked(CALL_GATES, miss, "region")
    inputs = ("q: bf16[2, 4, 8, 16]", "k: bf16[2, 2, 8, 16]", "cache: bf16[2, 4, 8, 16]")
    return GraphDecision(
        0, "missed", None, (miss,), None, False, gates, inputs=inputs, before=ROTARY_BEFORE, node=f"{node}_out", reads=(reads,)
    )


def unknown_rotary(reads: str) -> GraphDecision:
    """Nothing speaks against the second candidate, but nobody has run it."""
    why = "it has not been probed for such a call, and explaining runs no kernel"
    return GraphDecision(
        0,
        "unknown",
        None,
        (NO_BUILD,),
        None,
        training=False,
        gates=asked(CALL_GATES),
        candidates=(
            CandidateResult("acme/rope:rotary_pos_emb", asked(CANDIDATE_GATES, NO_BUILD, "repository")),
            CandidateResult("rotary:rotary_pos_emb", asked(CANDIDATE_GATES, unknown="admission", note=why), ROTARY),
        ),
        inputs=("q: bf16[2, 4, 8, 16]", "k: bf16[2, 2, 8, 16]"),
        before=(ROTARY_BEFORE[0], ROTARY_BEFORE[2]),
        node="add_7",
        reads=(reads,),
    )


def missed_in_training(graph: int) -> GraphDecision:
    candidates = (CandidateResult("acme/norms:RMSNorm", asked(CANDIDATE_GATES, NO_BACKWARD, "mode"), NORMS),)
    inputs = ("hidden_states: bf16[2, s0, 64]", "self.weight: bf16[64]")
    return GraphDecision(
        graph, "missed", None, (NO_BACKWARD,), None, True, asked(CALL_GATES), candidates, inputs=inputs, before=NORM_BEFORE, node="mul_9"
    )


def wrong_dtype(reads: str = "") -> GraphDecision:
    candidates = (
        CandidateResult("acme/norms:RMSNorm", asked(CANDIDATE_GATES, WRONG_DTYPE, "inputs"), NORMS),
        CandidateResult("acme/fast-norms:RMSNorm", asked(CANDIDATE_GATES, NOT_DENSE, "inputs"), FAST_NORMS),
    )
    return GraphDecision(
        0,
        "missed",
        None,
        (WRONG_DTYPE, NOT_DENSE),
        None,
        training=False,
        gates=asked(CALL_GATES),
        candidates=candidates,
        inputs=("hidden_states: f32[2, 8, 64] strides [1024, 128, 2]", "self.weight: f32[64]"),
        before=NORM_BEFORE,
        node="mul_11",
        reads=(reads,) if reads else (),
    )


def unmapped() -> GraphDecision:
    return GraphDecision(0, "missed", None, (NO_MAPPING,), gates=asked(CALL_GATES, NO_MAPPING, "mapping"), inputs=("input: f32[2, 8, 64]",))


def not_captured(reason: str = "") -> GraphDecision:
    return GraphDecision(-1, "not_captured", None, (Miss("not_captured", "no captured graph has called it{reason}", {"reason": reason}),))


def asked(
    names: tuple[str, ...], miss: Miss | None = None, failing: str = "", *, unknown: str = "", note: str = ""
) -> tuple[GateResult, ...]:
    """The gates of a chain, up to the failing one. The note is that of the admission gate."""
    gates = []
    for name in names:
        if name == failing:
            return (*gates, GateResult(name, "failed", miss))
        gates.append(GateResult(name, "unknown" if name == unknown else "passed", note=note if name == "admission" else ""))
    return tuple(gates)


# A norm for which the first candidate could not read the strides, and the second one was probed.
REWRITTEN_NORM = GraphDecision(
    0,
    "rewritten",
    NORMS,
    (NOT_DENSE,),
    TRACED,
    training=False,
    gates=asked(CALL_GATES),
    candidates=(
        CandidateResult("acme/fast-norms:RMSNorm", asked(CANDIDATE_GATES, NOT_DENSE, "inputs"), FAST_NORMS),
        CandidateResult("acme/norms:RMSNorm", asked(CANDIDATE_GATES, note="12 runs, off by at most 2e-3"), NORMS),
    ),
    evidence=Evidence("probed", record="3f2a91c04e7b" * 2),
    inputs=("hidden_states: bf16[2, 8, 64]", "self.weight: bf16[64]"),
    before=NORM_BEFORE,
    after=NORM_AFTER,
)
REWRITTEN_MLP = GraphDecision(
    0,
    "rewritten",
    MLP,
    (),
    OPAQUE,
    training=False,
    gates=asked(CALL_GATES),
    candidates=(CandidateResult("acme/mlp:GatedMLP", asked(CANDIDATE_GATES, unknown="admission", note="no worker on this system"), MLP),),
    evidence=Evidence("unprobed", "no worker on this system"),
    inputs=("x: bf16[2, 8, 64]",),
    before=MLP_BEFORE,
    after=MLP_AFTER,
)
