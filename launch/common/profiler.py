"""Profiles: which kernel of which part of the network ran when, for xprof, TensorBoard and Perfetto.

JAX records what devices and host do. The kernels are called by the parts that they compute, such as `module_3/conv1` or
`vgg19_conv3_2`: Flax gives each module a name scope, and the loss and the optimizer have some, too. On GPUs and TPUs JAX puts
these names into a profile. On CPUs it puts in the compiled programs only, from which this file takes the names.
"""

import collections
import contextlib
import gzip
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from crn_jax.errors import UserError
from crn_jax.files import replacing
from crn_jax.formats.protobuf import fields
from launch.common.names import quoted
from launch.common.terminal import console


class Profiler:
    """Records some steps of a command, from `__enter__` to `__exit__`. Each process records its own part.

    Args:
      steps: FIRST:LAST, both included; None records nothing.
      folder: the folder that TensorBoard is shown. It need not exist.
      what: what the steps are called, in the plural.
      shown: what messages call the folder, if it is uploaded to another place.

    Raises:
      UserError: if `steps` is no such range.
    """

    def __init__(self, steps: str | None, folder: Path, what: str = "steps", shown: str | None = None):
        self._asked, self._folder, self._what, self._shown = steps, folder, what, shown or str(folder)
        self._recording: tempfile.TemporaryDirectory | None = None
        self._done = steps is None
        self._first = self._last = 0
        if steps is not None:
            found = re.fullmatch("([0-9]{1,9}):([0-9]{1,9})", steps)
            self._first, self._last = map(int, found.groups()) if found else (0, 0)
            if not 1 <= self._first <= self._last:
                raise UserError(f"--profile {steps}: FIRST:LAST is needed, such as 100:105, counted from 1.")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._recording:
            self._end()
        elif not self._done:
            console.print(f"--profile {self._asked}: none of these {self._what} was computed, so there is no profile.")

    @contextlib.contextmanager
    def step(self, step: int, settle: Callable[[], object] | None = None) -> Iterator[None]:
        """Marks a step. If recording begins or ends before it, `settle` is called first, to wait for the devices."""
        begins = not self._done and not self._recording and self._first <= step <= self._last
        if begins or (self._recording and step > self._last):
            if settle:
                settle()
            if begins:
                self._begin()
            else:
                self._end()
        with jax.profiler.StepTraceAnnotation("step", step_num=step):
            yield

    def _begin(self) -> None:
        self._recording = tempfile.TemporaryDirectory(prefix="crn_jax_profile_")
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # calls of Python functions would be most of the profile
        jax.profiler.start_trace(self._recording.name, profiler_options=options)

    def _end(self) -> None:
        assert self._recording
        recording, self._recording, self._done = self._recording, None, True
        with recording as folder:
            jax.profiler.stop_trace()
            [xplane], [trace] = (list(Path(folder).rglob(pattern)) for pattern in ("*.xplane.pb", "*.trace.json.gz"))
            place = self._folder / "plugins" / "profile" / f"{self._what}_{self._first}_{self._last}"
            place.mkdir(parents=True, exist_ok=True)
            process = f"process_{jax.process_index()}"
            data = xplane.read_bytes()
            with replacing(place / f"{process}.xplane.pb") as file:
                file.write(data)
            for_perfetto = place / f"{process}.perfetto.json.gz"
            with replacing(for_perfetto) as file:
                file.write(gzip.compress(named(trace.read_bytes(), operations(data))))
        console.print(
            f"Profile of {self._what} {self._first} to {self._last}: xprof --logdir {quoted(self._shown)}, or open "
            f"{self._shown}/{for_perfetto.relative_to(self._folder)} at ui.perfetto.dev."
        )


def operations(xspace: bytes) -> dict[tuple[str, str], str]:
    """Returns the name, with its scopes, of each operation of the programs that a profile has, by program and operation.

    Programs may share a name, and an event does not tell which of them it is from. An operation is left out if its name is not
    the same in all of them.

    Args:
      xspace: the content of an .xplane.pb file, an XSpace of `xplane.proto`. It has all programs that the process holds.
    """
    names = collections.defaultdict[tuple[str, str], set[str]](set)
    for plane in map(_messages, _messages(xspace).get(1, [])):
        if plane.get(2) != [b"/host:metadata"]:
            continue
        for entry in plane.get(4, []):  # a program
            for event in _messages(entry).get(2, []):
                for stat in _messages(event).get(5, []):
                    for module in _messages(_messages(stat).get(6, [b""])[0]).get(1, []):  # an HloProto of `hlo.proto`
                        for operation, name in _of_module(_messages(module)).items():
                            names[operation].add(name)
    return {operation: name for operation, (name, *others) in names.items() if not others}


def _of_module(module: dict[int, list[bytes]]) -> dict[tuple[str, str], str]:
    """Returns the names of an HloModuleProto's operations."""
    names = {}
    for computation in module.get(3, []):
        for instruction in map(_messages, _messages(computation).get(2, [])):
            metadata = _messages(instruction.get(7, [b""])[-1])
            names[module[1][0].decode(), instruction[1][0].decode()] = metadata.get(2, [b""])[-1].decode()
    return names


def _messages(message: bytes) -> dict[int, list[bytes]]:
    return fields(message)[1]


def named(trace: bytes, names: dict[tuple[str, str], str]) -> bytes:
    """Returns a trace for Perfetto, in which kernels are called by their scopes.

    Args:
      trace: JAX's `trace.json.gz`. Perfetto does not read what JAX puts beside the events.
      names: what `operations` has found.
    """
    events = json.loads(gzip.decompress(trace))["traceEvents"]
    for event in events:
        told = event.get("args", {})
        if name := names.get((told.get("hlo_module"), told.get("hlo_op"))):
            event["name"] = name.removeprefix(f"{told['hlo_module'].replace('jit_', 'jit(', 1)})/")
    return json.dumps({"displayTimeUnit": "ns", "traceEvents": events}).encode()
