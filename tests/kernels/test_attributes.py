"""What a kernel layer's forward reads from ``self`` and writes to it."""

from __future__ import annotations

import functools
import textwrap

import pytest
from kernel_repositories import repository
from torch import nn

from fxkernels.kernels.attributes import UNKNOWN, attributes_read, writes_self, writes_to_layer
from fxkernels.kernels.layer import KernelIdentity, KernelLayer
from fxkernels.target import Target

CPU = Target("cpu", None, "2.13", None, "linux", "x86_64")
IDENTITY = KernelIdentity("test", None, "Kernel", None)


def of_forward(forward) -> KernelLayer:
    return KernelLayer(type("Kernel", (nn.Module,), {"forward": forward}), IDENTITY)


@pytest.fixture(params=["source", "byte code"])
def forward_of(request, tmp_path):
    """Make a kernel whose forward has this body, with its source at hand or without."""

    def make(body: str, parameters: str = "self, x") -> KernelLayer:
        text = f"def forward({parameters}):\n" + textwrap.indent(textwrap.dedent(body).strip(), "    ") + "\n"
        file = tmp_path / "forward.py"
        if request.param == "source":
            file.write_text(text)
        names: dict = {}
        exec(compile(text, str(file), "exec"), names)
        return of_forward(names["forward"])

    return make


@pytest.mark.parametrize(
    ("body", "read", "written"),
    [
        ("return self.weight * x + self.eps", {"weight", "eps"}, set()),
        ("return self.gate_proj.weight @ x", {"gate_proj"}, set()),
        ("return self.gate_proj(x)", {"gate_proj"}, set()),
        ("self.cache = x\nreturn x", set(), {"cache"}),
        ("self.steps += 1\nreturn x", {"steps"}, {"steps"}),
        ("del self.cache\nreturn x", set(), {"cache"}),
        ("self.weight.data = x\nreturn x", {"weight"}, set()),
        ("a, self.last = x\nreturn a", set(), {"last"}),
        ("return [y * self.scale for y in x]", {"scale"}, set()),
        ("def inner(y):\n    return y + self.bias\nreturn inner(x)", {"bias"}, set()),
        ("return (lambda y: y + self.bias)(x)", {"bias"}, set()),
        ("return (lambda self: self.other)(x)", set(), set()),
        ("return x", set(), set()),
        ("return x.weight", set(), set()),
        ("if x is None:\n    return self.a\nreturn f(self.b, y=self.c)", {"a", "b", "c"}, set()),
    ],
)
def test_attributes_of_self_are_seen(forward_of, body, read, written):
    kernel = forward_of(body)
    assert attributes_read(kernel) == read
    assert writes_self(kernel) == written


def test_first_parameter_counts_whatever_its_name(forward_of):
    assert attributes_read(forward_of("return layer.weight * self.other", parameters="layer, self")) == {"weight"}


def test_name_handed_to_getattr_is_read_unless_it_has_a_default():
    def forward(self, x):
        return getattr(self, "weight") * getattr(self, "scale", 1.0)  # noqa: B009

    assert attributes_read(of_forward(forward)) == {"weight"}


def test_name_handed_to_setattr_is_written_also_if_it_is_computed():
    def constant(self, x):
        setattr(self, "cache", x)  # noqa: B010

    def computed(self, x):
        setattr(self, f"cache_{x}", x)

    assert writes_self(of_forward(constant)) == {"cache"}
    assert writes_self(of_forward(computed)) == {UNKNOWN}


@pytest.mark.parametrize(
    ("body", "writes"),
    [
        ("self.cache = x\nself.steps += 1", {"self.cache": 1, "self.steps": 2}),
        ("self.weight.data = x", {"self.weight.data": 1}),
        ("self.proj.scale[0] = x", {"self.proj.scale": 1}),
        ("self.running[0] += x", {"self.running": 1}),
        ("self.running.copy_(x)", {"self.running": 1}),
        ("self.proj.weight.data.mul_(2)", {"self.proj.weight.data": 1}),
        ("layer = self\nlayer.cache = x", {"self.cache": 2}),
        ("setattr(self, 'cache', x)", {"self.cache": 1}),
        ("del self.cache", {"self.cache": 1}),
        ("y = self.weight.clone().mul_(2)\ny[0] = self.eps\nx.cache = y", {}),
        ("return (lambda self: self.weight.zero_())(x)", {}),
        ("return self.act_(x)", {}),
    ],
)
def test_writes_to_the_layer_are_found_with_their_lines(tmp_path, body, writes):
    file = tmp_path / "kernel_forward.py"
    file.write_text("def forward(self, x):\n" + textwrap.indent(body, "    ") + "\n")
    names: dict = {}
    exec(compile(file.read_text(), str(file), "exec"), names)
    found = writes_to_layer(of_forward(names["forward"]))
    assert list(map(str, found)) == [f"{target} at kernel_forward.py:{line + 1}" for target, line in writes.items()]


def test_writes_are_found_without_the_source_too(tmp_path):
    names: dict = {}
    exec(compile("def forward(self, x):\n    self.cache = x\n    self.steps += 1\n", str(tmp_path / "gone.py"), "exec"), names)
    assert list(map(str, writes_to_layer(of_forward(names["forward"])))) == ["self.cache at gone.py:2", "self.steps at gone.py:3"]


def scaled(layer, x):
    return layer.scale * shifted(x, norm=layer)


def shifted(x, *, norm):
    norm.last = x
    return x + norm.shift


def test_functions_to_which_self_is_handed_are_looked_into():
    def forward(self, x):
        return scaled(self, x) * self.weight

    kernel = of_forward(forward)
    assert attributes_read(kernel) == {"weight", "scale", "shift"}
    assert [write.target for write in writes_to_layer(kernel)] == ["self.last"]


def test_decorated_forward_is_looked_through():
    def decorated(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    @decorated
    def forward(self, x):
        return self.weight * x

    assert attributes_read(of_forward(forward)) == {"weight"}


def test_forward_that_is_no_python_function_reads_nothing():
    assert attributes_read(of_forward(min)) == frozenset()


def test_source_that_cannot_be_parsed_alone_is_no_obstacle():
    # The text of this forward begins in the middle of an expression.
    kernels = [of_forward(lambda self, x: self.weight * x), 1]
    assert attributes_read(kernels[0]) == {"weight"}


def test_class_is_looked_at_once():
    kernel = of_forward(lambda self, x: self.weight * x)
    assert attributes_read(kernel) is attributes_read(kernel)


def test_layers_of_a_repository_are_seen():
    assert attributes_read(repository("norms", "RMSNorm").load_for(CPU)) == {"weight", "variance_epsilon"}
    assert attributes_read(repository("rotary", "rotary_pos_emb").load_for(CPU)) == frozenset()
    assert writes_self(repository("broken", "WritesSelf").load_for(CPU)) == {"last_shape"}
