"""They end the process, or do not end, or say that they cannot."""

import os
import sys
import threading
import time

import torch

from .norm import Norm, applied, layer, plain


@layer
def Exits(self, x):
    os._exit(3)


@layer
def SystemExits(self, x):
    raise SystemExit(1)


@layer
def Interrupts(self, x):
    raise KeyboardInterrupt


@layer
def Aborts(self, x):
    print("before the end")
    os.abort()


@layer
def Segfaults(self, x):
    import ctypes

    return ctypes.string_at(0)


@layer
def Overflows(self, x):
    """Calls itself, without an end."""
    return Overflows.forward(self, x)


@layer
def Hangs(self, x):
    time.sleep(10_000)


@layer
def WaitsForALock(self, x):
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


@layer
def Raises(self, x):
    raise RuntimeError("no such shape")


@layer
def AllocatesTooMuch(self, x):
    return torch.empty(1 << 50) + x


@layer
def Prints(self, x):
    """Right; it talks."""
    print("hello from a kernel")
    print("and to the other stream", file=sys.stderr)
    return plain(self, x)


@layer
def ClosesOutput(self, x):
    """Ends what everybody prints to."""
    os.close(1)
    return plain(self, x)


class _Crashes(Norm):
    @staticmethod
    def backward(ctx, grad):
        os.abort()


class _Hangs(Norm):
    @staticmethod
    def backward(ctx, grad):
        time.sleep(10_000)


CrashesInBackward = applied("CrashesInBackward", _Crashes)
HangsInBackward = applied("HangsInBackward", _Hangs)


@layer
def CallsHelper(self, x):
    """Right; it needs a method of the layer that it stands in for."""
    return plain(self, x) * self.helper()


@layer
def FailsOnDevice(self, x):
    """On a GPU, an index out of range fails after the call, and the whole context with it."""
    out = plain(self, x)
    return out + out.flatten()[torch.full((1,), 1 << 30, device=x.device)]
