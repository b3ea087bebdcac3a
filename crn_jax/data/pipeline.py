"""Batches in an order that is a pure function of (seed, step), so that resuming is `first_step` and nothing else."""

from collections.abc import Iterator

import grain
import numpy as np

from crn_jax.data.sources import Source
from crn_jax.errors import UserError


def steps_per_epoch(source: Source, batch_size: int) -> int:
    """Full batches in one pass over the source; the examples left over change from epoch to epoch.

    Raises:
      UserError: if the batch is larger than the source.
    """
    if not 1 <= batch_size <= len(source):
        raise UserError(f"A batch of {batch_size} does not fit a data set of {len(source)} examples.")
    return len(source) // batch_size


def training_batches(
    source: Source, batch_size: int, seed: int, first_step: int = 0, threads: int = 2
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches from step `first_step` on, each epoch in a new order, decoded ahead by `threads` threads.

    Yields `{"layout": uint8 [B, H, W], "photograph": uint8 [B, H, W, 3]}`.
    """
    dataset = grain.MapDataset.source(source).shuffle(seed=seed).batch(batch_size, drop_remainder=True).repeat()
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * max(threads, 1))
    return iter(dataset[first_step:].to_iter_dataset(options))


def validation_batches(source: Source, batch_size: int, limit: int) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """At most `limit` examples, spread evenly over the source, in order, whatever the batch size.

    Yields a full batch, so that one shape is compiled, and how many of its examples count: the last batch repeats its
    last example.
    """
    indices = np.linspace(0, len(source) - 1, min(limit, len(source))).round().astype(int)
    for start in range(0, len(indices), batch_size):
        examples = [source[int(i)] for i in indices[start : start + batch_size]]
        padded = examples + [examples[-1]] * (batch_size - len(examples))
        yield {key: np.stack([example[key] for example in padded]) for key in examples[0]}, len(examples)
