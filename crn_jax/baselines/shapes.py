"""What the size of an image says of a baseline's layers. It needs no JAX, so that a command line is checked at once."""

from crn_jax.errors import counted

PATCH_WIDTHS = (64, 128, 256, 512)
"""The feature maps of the published PatchGAN, whose logits see 70x70 pixels."""


def dilations(height: int, width: int, layers: int) -> tuple[int, ...]:
    """Returns dilations of 3x3 convolutions through which every pixel sees the whole image.

    The first dilation is the largest, and each one is half of the one before; the last layers have dilation 1. Ten layers at
    256x512 have 256, 128, ..., 2, 1, 1.

    Raises:
      ValueError: if the layers are too few to see the whole image.
    """
    side, largest = max(height, width), 1
    while 2 * largest < side:  # dilations halved down to 1 see 2 largest - 1 pixels far
        largest *= 2
    if largest >> layers:
        raise ValueError(f"{layers} layers of halved dilations see the whole of {2**layers} pixels, not of {height}x{width}.")
    return tuple(max(1, largest >> i) for i in range(layers))


def fitting(widths: tuple[int, ...], height: int, width: int, smallest: int = 1) -> tuple[int, ...]:
    """Returns the first of `widths`, as many as both sides can be halved times, to no less than `smallest` pixels.

    Raises:
      ValueError: if the sides cannot be halved twice.
    """
    sides, count = [height, width], 0
    while count < len(widths) and all(side % 2 == 0 and side >= 2 * smallest for side in sides):
        sides, count = [side // 2 for side in sides], count + 1
    if count < 2:
        raise ValueError(
            f"Sides of {height}x{width} can be halved {counted(count, 'time')} (to no less than {smallest}), but the network "
            f"halves them at least twice."
        )
    return widths[:count]


def patches(levels: int, height: int, width: int) -> tuple[int, int]:
    """Returns how many logits a PatchGAN of so many levels, the last without a stride, has along each side.

    Raises:
      ValueError: if the image is too small for a single one.
    """
    rows, columns = (side // 2 ** (levels - 1) - 2 for side in (height, width))
    if min(rows, columns) < 1:
        raise ValueError(f"An image of {height}x{width} is too small for a single patch of {levels} levels.")
    return rows, columns
