"""Reads protocol buffers without their description: the formats of TensorFlow's checkpoints and of XLA's profiles."""


def fields(message: bytes) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """Parses a message: its numbers and, each as often as it occurs, its inner messages and texts, by the fields' numbers.

    Raises:
      ValueError: if it is not a message.
    """
    numbers: dict[int, int] = {}
    messages: dict[int, list[bytes]] = {}
    position = 0
    while position < len(message):
        tag, position = varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            numbers[number], position = varint(message, position)
        elif kind == 2:
            size, position = varint(message, position)
            messages.setdefault(number, []).append(part(message, position, size))
            position += size
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            numbers[number], position = int.from_bytes(part(message, position, size), "little"), position + size
        else:
            raise ValueError(f"a field of kind {kind}")
    return numbers, messages


def varint(data: bytes, position: int) -> tuple[int, int]:
    """Reads a number of seven bits a byte, the lowest first, and returns it with the position behind it.

    Raises:
      ValueError: if the bytes end within it, or if it has over ten bytes.
    """
    value = 0
    for shift in range(0, 70, 7):
        (byte,) = part(data, position, 1)
        value |= (byte & 127) << shift
        position += 1
        if byte < 128:
            return value, position
    raise ValueError("a number has over ten bytes")


def part(data: bytes, position: int, size: int) -> bytes:
    """Returns this part of the bytes.

    Raises:
      ValueError: if they end before it does.
    """
    if size < 0 or position + size > len(data):
        raise ValueError("it ends early")
    return data[position : position + size]
