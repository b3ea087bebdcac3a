"""What every source of examples is, wherever they come from.

An example is `{"layout": uint8 [H, W] class indices, "photograph": uint8 [H, W, 3]}` at the size asked for. (Layouts are uint16
past 256 classes.)
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np

from crn_jax.data.geometry import Place
from crn_jax.data.labels.label_space import LabelSpace

Example = dict[str, np.ndarray]
Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set's split at one size: `len(source)` examples, `source[i]`; `names[i]` says which is which."""

    label_space: LabelSpace
    names: list[str]
    size: tuple[int, int]
    notes: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    """What a user should know about how the split was made, in sentences."""

    def __len__(self) -> int:
        return len(self.names)

    def placed(self, index: int, place: Place) -> Example:
        """As `source[index]`; where crops are random, the one at `place`."""
        return self[index]

    def __getitem__(self, index: int) -> Example:
        """An example."""
        raise NotImplementedError


def full_batches(items: Iterable[Item], size: int) -> Iterator[tuple[list[Item], int]]:
    """Batches of `size` items in order, so that one shape is compiled; the last batch is filled up with its last item.

    Yields each batch with the number of its items that are not such copies.
    """
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch + batch[-1:] * (size - len(batch)), len(batch)
