"""Failures of a training that a person can mend: a full disk, or too little memory on the devices."""

import contextlib
from collections.abc import Iterator

import jax

from crn_jax.checkpoint import Checkpoints
from crn_jax.errors import UserError
from crn_jax.experiment import AnyExperiment


@contextlib.contextmanager
def explained_writes(checkpoints: Checkpoints) -> Iterator[None]:
    """Turns an `OSError` within the `with` block into an error that says what to do.

    Raises:
      UserError: if a file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise checkpoints.write_error(error) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether JAX says by this error that the devices' memory does not suffice."""
    return "RESOURCE_EXHAUSTED" in str(error)


@contextlib.contextmanager
def explained_memory(experiment: AnyExperiment, *, dry_run: bool = False) -> Iterator[None]:
    """Turns an error of too little memory within the `with` block into one that says what the experiment can do about it.

    A dry run meets such an error where a compiler refuses a step that does not fit, as that for TPUs does.

    Raises:
      UserError: if the devices' memory does not suffice.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        told = "--dry_run says what a step needs. " if experiment.trains == "cascade" and not dry_run else ""
        remat = "--remat full, " if experiment.trains in ("cascade", "baseline") else ""
        raise UserError(
            f"The devices' memory does not suffice ({str(error).splitlines()[0]}). {told}To need less, try "
            f"--{experiment.trains}.dtype bfloat16, {remat}a smaller --batch_size, or more devices along spatial "
            f"(--sharding.mesh).{'' if dry_run else ' Another program may hold some of the memory.'}"
        ) from error
