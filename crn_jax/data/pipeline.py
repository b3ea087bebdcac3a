"""Batches of examples. Their order is a pure function of seed and step, so resuming needs nothing but the first step."""

from collections.abc import Iterator, Sequence, Sized

import numpy as np

from crn_jax.data.examples import Source, full_batches
from crn_jax.errors import UserError, counted


def steps_per_epoch(source: Source, batch_size: int) -> int:
    """Returns the number of full batches in one pass over the source. The examples left over change from epoch to epoch.

    Raises:
      UserError: if the batch is larger than the source.
    """
    if not 1 <= batch_size <= len(source):
        raise UserError(f"A batch of {batch_size} does not fit a data set of {counted(len(source), 'example')}.")
    return len(source) // batch_size


def training_batches(
    source: Source,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    threads: int = 2,
    rows: Sequence[int] | None = None,
    flip: bool = False,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches without end, from step `first_step` on; each epoch has a new order.

    Args:
      source: the examples.
      batch_size: examples in a batch of all processes.
      seed: determines order, mirroring and random crops.
      first_step: the step to begin at, counted from 0.
      threads: the number of threads that decode ahead.
      rows: the rows of each batch that this process decodes; None means all. The batch as a whole does not depend on the
        number of processes.
      flip: mirrors half of the examples, a different half in each epoch.

    Yields:
      `{"layout": uint8 [rows, H, W], "photograph": uint8 [rows, H, W, 3]}`. Random crops differ from epoch to epoch.
    """
    import grain  # only a training needs it

    rows = list(range(batch_size)) if rows is None else rows

    def draw(indices: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.asarray(indices), flip & (rng.random(batch_size) < 0.5), rng.random((batch_size, 2))

    order = grain.MapDataset.range(len(source)).shuffle(seed=seed).batch(batch_size, drop_remainder=True).repeat()
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * max(threads, 1))
    drawn = order.random_map(draw, seed=seed + 1)
    batches = drawn.map(lambda parts: _decode(source, *(part[rows] for part in parts)))
    return iter(batches[first_step:].to_iter_dataset(options))


def spread(over: Sized, limit: int) -> list[int]:
    """Returns at most `limit` positions, spread evenly over a source or anything else that has a length."""
    return np.linspace(0, len(over) - 1, min(limit, len(over))).round().astype(int).tolist()


def validation_batches(
    source: Source, batch_size: int, indices: Sequence[int], rows: Sequence[int] | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the examples `indices` in order, in the batches of `full_batches`.

    Each batch is a dict as in `training_batches`, where `rows` is explained, too.
    """
    rows = range(batch_size) if rows is None else rows
    for batch, _ in full_batches(indices, batch_size):
        yield _decode(source, [batch[row] for row in rows])


def _decode(
    source: Source, indices: Sequence[int], mirrored: Sequence[bool] | None = None, places: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    if places is None:
        examples = [source[int(i)] for i in indices]
    else:
        examples = [source.placed(int(i), (down, right)) for i, (down, right) in zip(indices, places.tolist())]
    batch = {key: np.stack([example[key] for example in examples]) for key in examples[0]}
    for row in np.flatnonzero([] if mirrored is None else mirrored):
        for array in batch.values():
            array[row] = array[row, :, ::-1].copy()
    return batch
