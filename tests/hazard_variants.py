"""Variants of the hazards: every kernel of ``tests/repositories/hazards``, with a call in which it is wrong, and the verdict on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from hazard_probe_cases import hazard, norm_probe_case, rotary_probe_case
from probe_cases import probe_case_for

from fxkernels.admission.probe_case import ProbeCase

REPAIRED = "repaired"
"""In the place of a miss code: the kernel is right with copies of what it overwrites."""


@dataclass(frozen=True)
class Variant:
    """A kernel in a call.

    Args:
        name: The kernel layer, and what is special about the call.
        case: Makes the case.
        becomes: The miss code, or `REPAIRED`.
    """

    name: str
    case: Callable[[], ProbeCase]
    becomes: str

    def __str__(self) -> str:
        return self.name


def _norms(becomes: str, layers: str, note: str = "", **given: Any) -> Iterator[Variant]:
    for layer in layers.split():
        yield Variant(f"{layer} {note}".strip(), partial(_norm, layer, given), becomes)


def _norm(layer: str, given: dict[str, Any]) -> ProbeCase:
    given = dict(given)
    return norm_probe_case(layer, given.pop("dtype", torch.float32), *given.pop("sizes", ()), **given)


def _rotaries(becomes: str, layers: str, **given: Any) -> Iterator[Variant]:
    for layer in layers.split():
        yield Variant(layer, partial(rotary_probe_case, layer, **given), becomes)


_BF16 = torch.bfloat16
_APART = torch.empty(2, 16, 128)[..., :64]
_TRANSPOSED = torch.empty(2, 64, 16).mT
_EXPANDED = torch.empty(2, 1, 64).expand(2, 16, 64)


def _values() -> Iterator[Variant]:
    always = """MultipliesBySigmoid ForgetsTheWeight AddsOneToTheWeight SubtractsTheMean TakesTheLargerOfEpsilon ClampsLarge
        ReplacesOutliers SquaresInHalf NotANumberForZeros OneRowForAll WrongInOnePlace"""
    yield from _norms("numerics", always)
    yield from _norms("numerics", always, "in bfloat16", dtype=_BF16)
    yield from _norms("numerics", "IgnoresEpsilon FlushesTiny DividesByOneLess RoundsToHalf QuantizesToEightBits")
    yield from _norms("gradient", "AddsEpsilonOutside")
    yield from _norms("numerics", "DividesByOneLess", "in bfloat16", dtype=_BF16, sizes=(2, 16, 16))
    yield from _norms("numerics", "SumsInHalf", "over 1024 in bfloat16", dtype=_BF16, sizes=(2, 4, 1024))
    yield from _norms("numerics", "VarianceInOnePass", centred=True)


def _gradients() -> Iterator[Variant]:
    yield from _norms(
        "gradient",
        """OverwritesThroughView OverwritesSavedInput OverwritesWeight AccumulatesInSaved RightForOnes ReadsGradientDense GradientRowsDense
        ForgetsExpanded ForgetsOffset NoWeightGradient NoInputGradient ZeroWeightGradient ForgetsLastRows ScaleIsConstant ClipsGradient
        OtherOnSecond RaisesOnSecond AddsToWeightGrad KeepsInGlobal KeepsOutput""",
    )
    yield from _norms("gradient", "GradientThroughHalf KeepsReference", "in bfloat16", dtype=_BF16)
    yield from _norms("numerics", "ReusesGradientBuffer")


def _memory() -> Iterator[Variant]:
    yield from _norms(REPAIRED, "WritesItsInput WritesUnderGradOnly WritesWithoutGradOnly WritesOnSecondCall ReshapesInput")
    yield from _norms(REPAIRED, "WritesItsInput WritesWithoutGradOnly WritesOnSecondCall", "without gradients", gradient=False)
    yield from _norms(REPAIRED, "WritesStrided WritesBetweenRows", "of rows that lie apart", x=_APART)
    yield from _norms("mutates_input", "WritesLarge RepacksWeight MovesWeight WidensWeight FreezesWeight WritesPastTheEnd")
    yield from _norms("mutates_input", "WritesLarge WritesPastTheEnd", "without gradients", gradient=False)
    reused = "ReusesBuffer TwoBuffers ScratchInLastInput AddsIntoUncleared ReadsPastTheEnd"
    yield from _norms("numerics", f"{reused} ReturnsItsInput WritesLater")
    yield from _norms("numerics", reused, "without gradients", gradient=False)
    yield from _norms("numerics", "LeavesTheTail", "of 72 columns", sizes=(2, 16, 72))
    yield from _norms("gradient", "NeedsGradient", gradient=False)


def _state() -> Iterator[Variant]:
    forgetful = """CachesByShape CachesWeightByAddress CachesOnTheWeight CachesByIdentity RightOnce RunningScale OtherUnderACompiler
        OtherInTraining"""
    random = "DrawsRandomNumbers DrawsPythonsNumbers SeedsRandomNumbers"
    settings = """SetsDefaultDtype SetsThreads SwitchesDeterminism FlushesDenormals SetsCudnn PatchesTorch WritesSelf ReplacesWeight
        SwitchesMode ChangesDirectory"""
    for becomes, layers in (("numerics", forgetful), ("random", random), ("own_state", settings)):
        yield from _norms(becomes, layers)
        yield from _norms(becomes, layers, "without gradients", gradient=False)
    yield from _norms("gradient", "CachesByAddress TakesTheFirstEpsilon")
    yield from _norms("numerics", "CachesByAddress TakesTheFirstEpsilon", "without gradients", gradient=False)
    yield from _norms("own_state", "SwitchesGradientsOff")


def _sizes() -> Iterator[Variant]:
    yield from _norms("numerics", "Offset UnderGrad WithoutGrad ReadsStorageFromItsBegin")
    yield from _norms("numerics", "OddSizes", "of 60", sizes=(2, 16, 60))
    yield from _norms("numerics", "LargeSizes", "of 4104", sizes=(2, 4, 4104))
    yield from _norms("numerics", "ManyRows", "of 8200", sizes=(8200, 16))
    yield from _norms("gradient", "BackwardOfManyRows", "of 8200", sizes=(8200, 16))
    yield from _norms("numerics", "FourDimensions", sizes=(2, 2, 4, 64))
    yield from _norms("numerics", "OneRow", sizes=(2, 1, 64))
    yield from _norms("numerics", "LastBlockMissing", "of 30", sizes=(2, 15, 64))
    yield from _norms("numerics", "HalfPrecision", dtype=_BF16)
    yield from _norms("numerics", "Strided ReadsRowsDense", "of rows that lie apart", x=_APART)
    yield from _norms("numerics", "ReadsDense", "of columns", x=_TRANSPOSED)
    yield from _norms("gradient", "ExpandedAsOne", "of one row", x=_EXPANDED)


def _outputs() -> Iterator[Variant]:
    yield from _norms(REPAIRED, "GapsInOutput")
    yield from _norms("output_metadata", "Flattens AddsDimension ReturnsSparse")
    yield from _norms("crash", "ReturnsTuple ReturnsNothing")
    yield from _norms("gradient", "ReturnsParameter Detached DetachedForLarge")
    yield from _norms("gradient", "ReturnsParameter", "without gradients", gradient=False)
    yield from _norms("output_metadata", "AlwaysFloat32", dtype=_BF16)
    yield from _norms("output_metadata", "InputsDtype", "with a float32 weight", dtype=_BF16, weight_dtype=torch.float32)
    yield from _rotaries("numerics", "RotatesBackwards RotatesQueriesOnly OneCosineForAll HalfTheCosine Interleaved")
    yield from _rotaries("numerics", "TakesQueriesForKeys", heads=(4, 4))
    yield from _rotaries("output_metadata", "OneBuffer")
    yield from _rotaries(REPAIRED, "WritesTransposed")
    yield from _rotaries("gradient", "QueriesDetached", gradient=True, training=True)


# --- layers of other kinds ----------------------------------------------------------------------------------------------------------------


def _masked_attention() -> ProbeCase:
    def attention(x, mask):
        return torch.softmax((x @ x.transpose(-1, -2)).masked_fill(~mask, -1e4), -1) @ x

    return probe_case_for(
        hazard("IgnoresTheMask"), attention, [torch.empty(2, 8, 16), torch.ones(2, 8, 8, dtype=torch.bool)], gradient=False
    )


def _embedding() -> ProbeCase:
    positions, weight = torch.zeros(2, 5, dtype=torch.int64), torch.empty(11, 4).requires_grad_()
    return probe_case_for(hazard("TakesPositionsInOrder"), lambda p, w: F.embedding(p, w), [positions], {"weight": weight}, gradient=False)


def _stopped_output() -> ProbeCase:
    x = torch.empty(3, 4).requires_grad_()
    return probe_case_for(hazard("LetsGradientThrough"), lambda x: (x.detach() * 2, x * 3), [x], training=True)


def _frozen_weight() -> ProbeCase:
    x, weight = (torch.empty(sizes).requires_grad_() for sizes in ((3, 4), (4,)))
    return probe_case_for(hazard("GradientForFrozen"), lambda x, w: x * w.detach(), [x], {"weight": weight}, training=True)


def _gated() -> ProbeCase:
    x = torch.empty(3, 16).requires_grad_()
    return probe_case_for(hazard("SwapsHalves"), lambda x: F.silu(x[..., :8]) * x[..., 8:], [x], training=True)


def _gelu() -> ProbeCase:
    return probe_case_for(hazard("TanhGelu"), lambda x: F.gelu(x), [torch.empty(3, 16).requires_grad_()], training=True)


VARIANTS: tuple[Variant, ...] = (
    *_values(),
    *_gradients(),
    *_memory(),
    *_state(),
    *_sizes(),
    *_outputs(),
    Variant("IgnoresTheMask", _masked_attention, "numerics"),
    Variant("TakesPositionsInOrder", _embedding, "numerics"),
    Variant("LetsGradientThrough", _stopped_output, "gradient"),
    Variant("GradientForFrozen", _frozen_weight, "gradient"),
    Variant("SwapsHalves", _gated, "numerics"),
    Variant("TanhGelu", _gelu, "numerics"),
)

TWINS: tuple[Variant, ...] = tuple(
    Variant(f"{name} {number}", case, "admitted")
    for name, cases in {
        "RMSNorm": [
            partial(_norm, "hazard-twins:RMSNorm", given)
            for dtype in (torch.float32, _BF16, torch.float16)
            for given in (
                {"dtype": dtype},
                {"dtype": dtype, "gradient": False},
                {"dtype": dtype, "training": False},
                {"dtype": dtype, "sizes": (2, 15, 60)},
                {"dtype": dtype, "sizes": (2, 1, 64)},
                {"dtype": dtype, "sizes": (2, 2, 4, 64)},
                {"dtype": dtype, "sizes": (2, 4, 4104)},
                {"dtype": dtype, "sizes": (8200, 16)},
                {"dtype": dtype, "x": _APART.to(dtype)},
                {"dtype": dtype, "weight_dtype": torch.float32},
            )
        ]
        + [partial(_norm, "hazard-twins:RMSNorm", {"x": x}) for x in (_APART, _EXPANDED, _TRANSPOSED)],
        "rotary": [
            partial(rotary_probe_case, "hazard-twins:rotary_pos_emb", unsqueeze_dim, heads, gradient=gradient)
            for unsqueeze_dim in (1, 2)
            for heads in ((4, 2), (4, 4))
            for gradient in (False, True)
        ],
        "Prints": [partial(_norm, "Prints", {})],
    }.items()
    for number, case in enumerate(cases)
)
"""Calls of the same kinds, with kernels that have nothing wrong: printing is no sin."""
