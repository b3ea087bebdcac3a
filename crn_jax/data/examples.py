"""The interface of a source of examples, and batches of items.

An example is `{"layout": uint8 [H, W], "photograph": uint8 [H, W, 3]}` at the source's size. A layout holds class ids; it
is uint16 if there are more than 256 classes. An example may also have `{"instances": uint16 [H, W]}`, the id of each pixel's
instance.
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
    """One split of a data set at one size: `len(source)` examples, of which `source[i]` is the one called `names[i]`."""

    label_space: LabelSpace
    names: list[str]
    size: tuple[int, int]
    """Height and width of the examples, in pixels."""
    has_instances: bool = dataclasses.field(default=False, kw_only=True)
    """Whether examples have instances."""
    notes: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    """Sentences for the user about how the split was made."""

    def __len__(self) -> int:
        return len(self.names)

    def placed(self, index: int, place: Place) -> Example:
        """Returns example `index`. A source of random crops cuts the crop at `place`; other sources ignore `place`."""
        return self[index]

    def __getitem__(self, index: int) -> Example:
        """Returns example `index`; a source of random crops cuts it from the middle."""
        raise NotImplementedError


def full_batches(items: Iterable[Item], size: int) -> Iterator[tuple[list[Item], int]]:
    """Splits items into batches of `size`, in order. The last batch is filled up with copies of its last item.

    All batches have one size, so a jitted function is compiled once. Each batch comes with the number of its items that are no
    such copies.
    """
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch + batch[-1:] * (size - len(batch)), len(batch)
