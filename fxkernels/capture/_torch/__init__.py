"""Every private torch API that fxkernels touches, each behind a function with a plain name.

Seen working on torch 2.11, 2.13 and 2.14; `tests/capture/test_torch_private*.py` have a canary for each. Nobody else imports from
`torch._dynamo` or its neighbours. Importing this package imports Dynamo, so it is imported when our backend is first used and not before.
"""

from .alone import by_itself, compiled_alone, fake_mode, fakes_of, outside_of_traces
from .apart import apart, is_inductor, replays_cuda_graphs, timed_compiler, timed_settings
from .autograd_graph import Indescribable, SavedTensors, Tape, recording_autograd
from .caching import cacheable
from .compiled_module import compiled_module
from .compiling import (
    ISOLATED,
    as_if_compiling,
    call_on_fakes,
    cause_of,
    compile_key,
    compiling_around,
    entry,
    graph_break_reason,
    inner_compiler,
    is_eager,
    is_wrapper_subclass,
    on_recompile_limit,
    run_on_fakes,
    unwrapped_backend,
)
from .dynamic_sizes import sizes_marked_dynamic
from .guarding import state_guard, tensor_guard
from .replaying import aside, replayed
from .running import Watched, run_for_real, watch_on_fakes
from .tracing import (
    Observer,
    add_marker,
    current_backend,
    frame_and_callers,
    frame_closure,
    frame_code,
    install,
    local_variable,
    module_stack,
    set_backend,
)
from .types import Frame, Variable
from .variables import (
    attribute,
    constant,
    graph_argument,
    isinstance_lazy,
    output_proxies,
    peek,
    realized,
    type_name,
    unpacked,
    unpacked_keywords,
)

__all__ = [
    "ISOLATED",
    "Frame",
    "Indescribable",
    "Observer",
    "SavedTensors",
    "Tape",
    "Variable",
    "Watched",
    "add_marker",
    "apart",
    "as_if_compiling",
    "aside",
    "attribute",
    "by_itself",
    "cacheable",
    "call_on_fakes",
    "cause_of",
    "compile_key",
    "compiled_alone",
    "compiled_module",
    "compiling_around",
    "constant",
    "current_backend",
    "entry",
    "fake_mode",
    "fakes_of",
    "frame_and_callers",
    "frame_closure",
    "frame_code",
    "graph_argument",
    "graph_break_reason",
    "inner_compiler",
    "install",
    "is_eager",
    "is_inductor",
    "is_wrapper_subclass",
    "isinstance_lazy",
    "local_variable",
    "module_stack",
    "on_recompile_limit",
    "output_proxies",
    "outside_of_traces",
    "peek",
    "realized",
    "recording_autograd",
    "replayed",
    "replays_cuda_graphs",
    "run_for_real",
    "run_on_fakes",
    "set_backend",
    "sizes_marked_dynamic",
    "state_guard",
    "tensor_guard",
    "timed_compiler",
    "timed_settings",
    "type_name",
    "unpacked",
    "unpacked_keywords",
    "unwrapped_backend",
    "watch_on_fakes",
]
