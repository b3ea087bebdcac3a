"""What a start does at the same time: the step is compiled while threads read what the first validation needs.

A compiler and Pillow's decoders leave Python's lock to others. Nothing runs on the devices meanwhile, because XLA for GPUs
times kernels while it compiles.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from crn_jax.sharding import local_rows, put_batch
from crn_jax.train import TrainState
from launch.common.terminal import console

Result = TypeVar("Result")


class Ahead(Generic[Result]):
    """What a function returns, which a thread calls at once. The thread does not hold up the end of the process."""

    def __init__(self, function: Callable[..., Result], *arguments: Any):
        self._future: Future[Result] = Future()

        def call() -> None:
            try:
                self._future.set_result(function(*arguments))
            except BaseException as error:
                self._future.set_exception(error)

        threading.Thread(target=call, name=f"ahead: {function.__name__}", daemon=True).start()

    def result(self) -> Result:
        """Waits for the function to end. Returns what it returned, or raises what it raised."""
        return self._future.result()


def compile_step(train_step: Any, state: TrainState, frozen: dict, mesh: Mesh, batch: dict[str, jax.ShapeDtypeStruct]) -> None:
    """Compiles the training step. JAX finds the program when the step is called with such arguments.

    Args:
      train_step: the jitted step.
      state: the state that the training begins with; it is not used up.
      frozen: the frozen parameters on the mesh.
      mesh: the devices.
      batch: the shapes and dtypes of a batch of all processes.
    """
    batch_size = batch["layout"].shape[0]
    rows = len(local_rows(mesh, batch_size))
    zeros = {key: np.zeros((rows, *leaf.shape[1:]), leaf.dtype) for key, leaf in batch.items()}
    with console.status("Compiling the training step."):
        train_step.lower(state, frozen, put_batch(mesh, batch_size, zeros)).compile()
