"""How often JAX compiles."""

import contextlib
from collections.abc import Iterator

import jax

_SECONDS = "/jax/core/compile/jaxpr_to_mlir_module_duration"  # recorded once for each program that is lowered


@contextlib.contextmanager
def compiled() -> Iterator[list[str]]:
    """Yields a list of the programs that are compiled within the block, whether or not a cache on disk has them already."""
    programs: list[str] = []

    def note(event: str, seconds: float, fun_name: str = "", **_) -> None:
        if event == _SECONDS:
            programs.append(fun_name.removeprefix("jit(").removesuffix(")"))

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield programs
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
