"""Failures of a training that a person can mend: a full disk, or too little memory on the devices."""

import contextlib
from collections.abc import Iterator

import jax

from crn_jax.checkpoint import Checkpoints
from crn_jax.errors import UserError


@contextlib.contextmanager
def explained(checkpoints: Checkpoints) -> Iterator[None]:
    """Turns such failures within the `with` block into an error that says what to do.

    Raises:
      UserError: if a file cannot be written, or the devices' memory does not suffice.
    """
    try:
        yield
    except OSError as error:
        raise checkpoints.write_error(error) from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"The devices' memory does not suffice ({str(error).splitlines()[0]}). --dry_run says what a step needs. To need "
            f"less, try --cascade.dtype bfloat16, --remat full, a smaller --batch_size, or more devices along spatial "
            f"(--sharding.mesh)."
        ) from error
