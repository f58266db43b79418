"""Every private torch API that fxkernels touches, each behind a function with a plain name.

Seen working on torch 2.11, 2.13 and 2.15; `tests/capture/test_torch_private*.py` have a canary for each. Nobody else imports from
`torch._dynamo` or its neighbours. Importing this package imports Dynamo, so it is imported when our backend is first used and not before.
"""

from .gone import said_plainly

with said_plainly():
    from .apart import apart, is_inductor, replays_cuda_graphs, timed_compiler, timed_settings
    from .autograd_graph import Indescribable, SavedTensors, Tape, recording_autograd
    from .caching import cacheable
    from .compiled_module import compiled_module
    from .compiling import (
        INITIALIZES_BACKENDS,
        ISOLATED,
        as_if_compiling,
        call_on_fakes,
        cause_of,
        compile_key,
        compiled_apart,
        compiling_around,
        entry,
        graph_break_reason,
        in_canonical_order,
        inner_compiler,
        is_eager,
        is_wrapper_subclass,
        on_recompile_limit,
        operations_are_watched,
        run_on_fakes,
        unlogged_fakes,
        unwrapped_backend,
    )
    from .dynamic_sizes import sizes_marked_dynamic
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
    "INITIALIZES_BACKENDS",
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
    "cacheable",
    "call_on_fakes",
    "cause_of",
    "compile_key",
    "compiled_apart",
    "compiled_module",
    "compiling_around",
    "constant",
    "current_backend",
    "entry",
    "frame_and_callers",
    "frame_closure",
    "frame_code",
    "graph_argument",
    "graph_break_reason",
    "in_canonical_order",
    "inner_compiler",
    "install",
    "is_eager",
    "is_inductor",
    "is_wrapper_subclass",
    "isinstance_lazy",
    "local_variable",
    "module_stack",
    "on_recompile_limit",
    "operations_are_watched",
    "output_proxies",
    "peek",
    "realized",
    "recording_autograd",
    "replayed",
    "replays_cuda_graphs",
    "run_for_real",
    "run_on_fakes",
    "said_plainly",
    "set_backend",
    "sizes_marked_dynamic",
    "timed_compiler",
    "timed_settings",
    "type_name",
    "unlogged_fakes",
    "unpacked",
    "unpacked_keywords",
    "unwrapped_backend",
    "watch_on_fakes",
]
