"""Label spaces that a JSON file describes, and generated colours for classes without colours.

A file needs only the classes. The layouts of this one hold the ids 0, 1 and 2:

    {"classes": ["lawn", "path", "pond"]}

These are all fields, and what is taken for a field that is left out:

    {
      "name": "garden",                                   else the file's name
      "classes": ["lawn", "path", "pond"],                "void" is added as the last class, unless it is listed there
      "colors": [[0, 160, 0], [200, 180, 120], [0, 80, 200]],   one per class; else generated
      "ids": {"4": "lawn", "5": "lawn", "9": "path", "12": "pond"},   or a list, one per class; else 0, 1, ...
      "void_ids": [0, 255],                               further ids that mean void
      "void_colors": [[255, 255, 255]],                   further colours that mean void
      "read": "ids"                                       else "colors" or what a palette PNG tells; see `indexed.py`
    }

Void is black, unless it is listed with another colour. If a layout has an id or a colour that no field mentions, reading it
fails, so list in `void_ids` or `void_colors` what should be ignored.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crn_jax.data.labels.generated_colors import MOST_COLORS, palette
from crn_jax.data.labels.indexed import READINGS
from crn_jax.data.labels.label_space import Color, LabelSpace
from crn_jax.errors import UserError, did_you_mean
from crn_jax.formats.json_file import read_json, shown

_BLACK = (0, 0, 0)
_MAX_CLASSES = 65_536
_FIELDS = ("name", "classes", "colors", "ids", "void_ids", "void_colors", "read")


def read_label_file(path: Path) -> LabelSpace:
    """Reads a label space from a JSON file, which the module's docstring explains.

    Raises:
      UserError: if the file cannot be read, or if something in it is wrong. The message names the file and the field, and says
        what the field holds and what would be right.
    """
    try:
        return _from_fields(read_json(path, "", object, nan=True, sealed=False), path.stem)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _from_fields(fields: Any, default_name: str) -> LabelSpace:
    if not isinstance(fields, dict):
        raise ValueError(f'fields in braces are needed, such as {{"classes": ["lawn", "path"]}}, got {shown(fields)}.')
    for field in fields:
        if field not in _FIELDS:
            raise ValueError(
                f"{field}: there is no such field.{did_you_mean(field, _FIELDS)} The fields: {', '.join(_FIELDS)}."
            )
    name = fields.get("name", default_name)
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"name: a name in quotes is needed, got {shown(name)}.")
    listed = _classes(fields.get("classes"))
    classes = listed if listed[-1] == "void" else (*listed, "void")
    colors, void_colors = _colors_of(fields, listed, classes)
    if (read := fields.get("read")) not in (None, *READINGS):
        raise ValueError(f'read: "ids" or "colors" is needed, got {shown(read)}. If you leave it out, palettes tell.')
    return LabelSpace(name, classes, colors, _ids_of(fields, listed, classes), void_colors, read)


def _classes(names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f'classes: a list of names is needed, such as ["lawn", "path"], got {shown(names)}.')
    if len({*names, "void"}) > _MAX_CLASSES:
        raise ValueError(
            f"classes: at most {_MAX_CLASSES:,}, void included, can be told apart by their ids, got {len(names):,}."
        )
    seen = set[str]()
    for i, name in enumerate(names):
        if name in seen:
            raise ValueError(f"classes: {shown(name)} is there twice. Remove one.")
        seen.add(name)
        if name.lower() == "void" and (name != "void" or i < len(names) - 1):
            raise ValueError(f'classes: {shown(name)} must be "void", and the last. If you leave it out, it is added.')
    return tuple(names)


def _colors_of(fields: dict[str, Any], listed: Sequence[str], classes: Sequence[str]) -> tuple[tuple[Color, ...], ...]:
    """Returns the classes' colours and the further colours of void. Each colour stands for one class."""
    void_colors = _colors("void_colors", fields.get("void_colors", []))
    if "colors" in fields:
        colors = _colors("colors", fields["colors"])
        if len(colors) != len(listed):
            raise ValueError(f"colors: {len(listed)} are needed, one for each class, got {len(colors)}.")
    elif len(classes) + len(void_colors) > MOST_COLORS:
        raise ValueError(f"colors: they are generated for at most {MOST_COLORS:,} classes. List a colour for each class.")
    else:
        colors = tuple(color for color in palette(len(classes) + len(void_colors)) if color not in void_colors)
        colors = (*colors[: len(classes) - 1], _BLACK)
    colors += (_BLACK,) * (len(classes) - len(colors))
    of_void = {*void_colors}
    owners: dict[Color, str] = {}
    for color, owner in (*zip(colors, classes), *((color, "void") for color in void_colors)):
        if owners.setdefault(color, owner) != owner:
            field = "void_colors" if color in of_void else "colors"
            remedy = "Change one" + (", or list void as the last class, in another colour." if color == _BLACK else ".")
            raise ValueError(f"{field}: {list(color)} is the colour of {owners[color]} and of {owner}. {remedy}")
    return colors, tuple(color for color in dict.fromkeys(void_colors) if color != colors[-1])


def _colors(field: str, value: Any) -> tuple[Color, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{field}: a list of colours is needed, such as [[0, 160, 0]], got {shown(value)}.")
    for color in value:
        if not (isinstance(color, list) and len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color)):
            raise ValueError(f"{field}: a colour is [red, green, blue], whole numbers from 0 to 255, got {shown(color)}.")
    return tuple((red, green, blue) for red, green, blue in value)


def _ids_of(fields: dict[str, Any], listed: Sequence[str], classes: Sequence[str]) -> dict[int, int]:
    ids = fields.get("ids", list(range(len(listed))))
    if isinstance(ids, list):
        if len(ids) != len(listed):
            raise ValueError(f"ids: {len(listed)} are needed, one for each class, got {len(ids)}.")
        pairs = [(_id("ids", i), index) for index, i in enumerate(ids)]
    elif isinstance(ids, dict):
        numbers = {name: index for index, name in enumerate(classes)}
        pairs = [(_id("ids", key), _class_id(key, name, numbers)) for key, name in ids.items()]
    else:
        raise ValueError(f'ids: {{"4": "{listed[0]}"}} or a list with an id for each class is needed, got {shown(ids)}.')
    void_ids = fields.get("void_ids", [])
    if not isinstance(void_ids, list):
        raise ValueError(f"void_ids: a list of ids is needed, such as [255], got {shown(void_ids)}.")
    table: dict[int, int] = {}
    void_pairs = [(_id("void_ids", i), len(classes) - 1) for i in void_ids]
    for field, i, index in (*(("ids", *pair) for pair in pairs), *(("void_ids", *pair) for pair in void_pairs)):
        if table.setdefault(i, index) != index:
            raise ValueError(f"{field}: {i} is the id of {classes[table[i]]} and of {classes[index]}. Change one.")
    if missing := {*range(len(classes) - 1)} - {*table.values()}:
        raise ValueError(f"ids: {classes[min(missing)]} has none. Add one, or remove this class from classes.")
    return table


def _id(field: str, value: Any) -> int:
    """Returns an id that stands in a list, or in quotes, as JSON wants the keys of an object."""
    if isinstance(value, str) and len(value) < 20 and value.removeprefix("-").isdecimal() and value == str(int(value)):
        value = int(value)
    if type(value) is not int or not -1 <= value <= 65535:
        raise ValueError(f"{field}: an id is a whole number from -1 to 65535, got {shown(value)}.")
    return value


def _class_id(key: str, name: Any, classes: dict[str, int]) -> int:
    if not isinstance(name, str) or name not in classes:
        hint = did_you_mean(name, classes) if isinstance(name, str) and len(classes) < 1000 else ""
        raise ValueError(f"ids: {key} is {shown(name)}, which is none of the classes.{hint}")
    return classes[name]
