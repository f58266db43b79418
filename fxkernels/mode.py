"""What a kernel is used for: inference or training, with or without torch.compile."""

from __future__ import annotations

from enum import Flag, auto


class Mode(Flag):
    """What a kernel is used for.

    `INFERENCE` and `TRAINING` exclude each other and may each be combined with `TORCH_COMPILE`. `FALLBACK` cannot be combined, and is for
    mappings only: its kernel is considered when no other mode of the mapping fits.

    Example:
        >>> Mode.TRAINING | Mode.TORCH_COMPILE
        >>> Mode.TRAINING | Mode.INFERENCE
        Traceback (most recent call last):
        ValueError: Mode.INFERENCE and Mode.TRAINING exclude each other ...
    """

    FALLBACK = auto()
    TRAINING = auto()
    INFERENCE = auto()
    TORCH_COMPILE = auto()

    def __or__(self, other: object) -> Mode:
        if not isinstance(other, Mode):
            return NotImplemented
        union = super().__or__(other)
        if Mode.INFERENCE in union and Mode.TRAINING in union:
            raise ValueError("Mode.INFERENCE and Mode.TRAINING exclude each other; map or choose one of them at a time")
        if Mode.FALLBACK in union and union is not Mode.FALLBACK:
            raise ValueError("Mode.FALLBACK cannot be combined with another mode; it already means all of them")
        return union

    __ror__ = __or__

    @property
    def label(self) -> str:
        """The mode as a user writes it, without the class name: ``"INFERENCE | TORCH_COMPILE"``."""
        return " | ".join(flag.name or "" for flag in self)


_PREFERENCE: dict[Mode, tuple[Mode, ...]] = {
    Mode.INFERENCE: (
        Mode.INFERENCE,
        Mode.INFERENCE | Mode.TORCH_COMPILE,
        Mode.TRAINING,
        Mode.TRAINING | Mode.TORCH_COMPILE,
        Mode.FALLBACK,
    ),
    Mode.TRAINING: (Mode.TRAINING, Mode.TRAINING | Mode.TORCH_COMPILE, Mode.FALLBACK),
    Mode.INFERENCE | Mode.TORCH_COMPILE: (Mode.INFERENCE | Mode.TORCH_COMPILE, Mode.TRAINING | Mode.TORCH_COMPILE, Mode.FALLBACK),
    Mode.TRAINING | Mode.TORCH_COMPILE: (Mode.TRAINING | Mode.TORCH_COMPILE, Mode.FALLBACK),
}

_MAPPABLE: tuple[Mode, ...] = _PREFERENCE[Mode.INFERENCE]  # the longest order names every mode that any order can reach


def preference(mode: Mode) -> tuple[Mode, ...]:
    """Return the modes whose kernels may be used in `mode`, best first.

    The orders are those of the `kernels` package, so that a mapping written for it means the same here.

    Raises:
        ValueError: If `mode` is not what a model can run in: `INFERENCE` or `TRAINING`, each optionally with `TORCH_COMPILE`.
    """
    if mode not in _PREFERENCE:
        choices = ", ".join(known.label for known in _PREFERENCE)
        raise ValueError(f"a model cannot run in mode {mode!r}; choose one of: {choices}")
    return _PREFERENCE[mode]


def mapping_mode(key: object) -> Mode:
    """Return the mode that a key of a mapping means; the `kernels` package's own Mode is understood by its flag names.

    Raises:
        TypeError: If `key` is no mode.
        ValueError: If it is a combination that no model could ever ask for.
    """
    choices = ", ".join(mode.label for mode in _MAPPABLE)
    if not isinstance(key, Flag) or any(flag.name not in Mode.__members__ for flag in key):
        raise TypeError(f"{key!r} is not a mode; the keys of a mode dict are one of: {choices}")
    names = {flag.name for flag in key}
    for mode in _MAPPABLE:
        if names == {flag.name for flag in mode}:
            return mode
    raise ValueError(f"no model ever asks for a kernel of mode {key!r}; the keys of a mode dict are one of: {choices}")
