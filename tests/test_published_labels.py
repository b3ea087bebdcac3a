"""The tables against what their publishers say, and files of one's own."""

import json
import re

import cattrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.color import rgb2lab

from crn_jax.data.labels.generated_colors import palette
from crn_jax.data.labels.label_file import read_label_file
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.data.labels.published import CAMVID, CITYSCAPES, LABEL_SPACES, find_label_space
from crn_jax.data.pictures import open_picture
from crn_jax.errors import UserError

pytestmark = pytest.mark.quick

# cityscapesScripts, helpers/labels.py: id, trainId, colour.
OFFICIAL = (
    (0, 255, (0, 0, 0)), (1, 255, (0, 0, 0)), (2, 255, (0, 0, 0)), (3, 255, (0, 0, 0)), (4, 255, (0, 0, 0)),
    (5, 255, (111, 74, 0)), (6, 255, (81, 0, 81)), (7, 0, (128, 64, 128)), (8, 1, (244, 35, 232)), (9, 255, (250, 170, 160)),
    (10, 255, (230, 150, 140)), (11, 2, (70, 70, 70)), (12, 3, (102, 102, 156)), (13, 4, (190, 153, 153)),
    (14, 255, (180, 165, 180)), (15, 255, (150, 100, 100)), (16, 255, (150, 120, 90)), (17, 5, (153, 153, 153)),
    (18, 255, (153, 153, 153)), (19, 6, (250, 170, 30)), (20, 7, (220, 220, 0)), (21, 8, (107, 142, 35)),
    (22, 9, (152, 251, 152)), (23, 10, (70, 130, 180)), (24, 11, (220, 20, 60)), (25, 12, (255, 0, 0)), (26, 13, (0, 0, 142)),
    (27, 14, (0, 0, 70)), (28, 15, (0, 60, 100)), (29, 255, (0, 0, 90)), (30, 255, (0, 0, 110)), (31, 16, (0, 80, 100)),
    (32, 17, (0, 0, 230)), (33, 18, (119, 11, 32)),
)  # fmt: skip
TRAIN_IDS = np.array([train_id for _, train_id, _ in OFFICIAL], np.uint8)
COLORS = np.array([color for *_, color in OFFICIAL], np.uint8)
POLEGROUP, POLE, VOID = 18, 5, 19


def save(array, path):
    Image.fromarray(array).save(path)
    return path


def test_the_names():
    expected = (
        "cityscapes cityscapes_trainids cityscapes_strict camvid camvid32 ade20k nyu894 nyu40 nyu13 gta5 cocostuff".split()
    )
    assert {*expected} <= {*LABEL_SPACES} and all(find_label_space(name).name == name for name in LABEL_SPACES)
    assert LABEL_SPACES["cityscapes"] is CITYSCAPES and LABEL_SPACES["camvid"] is CAMVID
    sizes = {"camvid32": 32, "ade20k": 151, "nyu894": 895, "nyu40": 41, "nyu13": 14, "cocostuff": 183, "gta5": 20}
    assert sizes == {name: LABEL_SPACES[name].num_classes for name in sizes}


@pytest.mark.parametrize("name", LABEL_SPACES)
def test_every_class_is_read_back_from_its_colour_and_its_ids(name, tmp_path):
    space = LABEL_SPACES[name]
    assert len({*space.classes}) == space.num_classes and {*space.ids.values()} == {*range(space.num_classes)}
    every = np.arange(space.num_classes)[None]
    assert (space.read(save(space.draw(every), tmp_path / "colours.png")) == every).all()
    ids = np.array([[i for i in space.ids if i >= 0]], np.uint16)
    assert space.read(save(ids, tmp_path / "ids.png")).tolist() == [[space.ids[i] for i in ids[0].tolist()]]
    assert cattrs.structure(json.loads(json.dumps(cattrs.unstructure(space))), LabelSpace) == space


@pytest.mark.parametrize("name", ["cityscapes", "cityscapes_strict", "gta5"])
def test_cityscapes_ids_follow_the_official_table(name):
    space = LABEL_SPACES[name]
    for i, train_id, _ in OFFICIAL:
        expected = POLE if i == POLEGROUP and name != "cityscapes_strict" else VOID if train_id == 255 else train_id
        assert space.ids[i] == expected, i
    assert space.ids[-1] == VOID  # Cityscapes' license plate


def test_cityscapes_colours_follow_the_official_table(tmp_path):
    for name in ("cityscapes", "cityscapes_strict", "cityscapes_trainids", "gta5"):
        read = LABEL_SPACES[name].read(save(COLORS[None], tmp_path / "colours.png"))[0]
        assert read.tolist() == [POLE if i == POLEGROUP else VOID if t == 255 else t for i, t, _ in OFFICIAL]
    train_ids = LABEL_SPACES["cityscapes_trainids"].read(save(TRAIN_IDS[None], tmp_path / "train_ids.png"))[0]
    assert train_ids.tolist() == np.minimum(TRAIN_IDS, VOID).tolist()


def test_ids_colours_and_trainids_of_real_cityscapes_layouts_agree(shared_data, tmp_path):
    paths = sorted((shared_data / "cityscapes" / "gtFine").glob("*/*/*_labelIds.png"))
    assert paths
    for path in paths:
        ids = np.asarray(open_picture(path).image)[::4, ::4]
        expected = CITYSCAPES.read(save(ids, tmp_path / "ids.png"))
        assert (CITYSCAPES.read(save(COLORS[ids], tmp_path / "colours.png")) == expected).all()
        train_ids = LABEL_SPACES["cityscapes_trainids"].read(save(TRAIN_IDS[ids], tmp_path / "train_ids.png"))
        assert (train_ids == LABEL_SPACES["cityscapes_strict"].read(tmp_path / "ids.png")).all()
        assert (train_ids == expected)[ids != POLEGROUP].all() and (expected == VOID).any()


def test_the_authors_layouts(shared_data, tmp_path):
    """Colours by the released program's rule: the 19 by exact comparison, everything else void; and the same through ids."""
    paths = sorted((shared_data / "authors" / "layouts").glob("Label*/*.png"))
    assert paths
    for path in paths:
        rgb = np.asarray(open_picture(path).image.convert("RGB"))
        matches = [(rgb == np.array(color)).all(-1) for color in CITYSCAPES.colors[:19]]
        expected = np.where(np.any(matches, 0), np.argmax(matches, 0), VOID)
        assert (CITYSCAPES.read(path) == expected).all(), path
        ids, codes = np.zeros(rgb.shape[:2], np.uint8), rgb @ [1 << 16, 1 << 8, 1]
        for i, _, color in reversed(OFFICIAL):
            ids[codes == color @ np.array([1 << 16, 1 << 8, 1])] = i
        assert (COLORS[ids] == rgb).all() and (expected == VOID).any()
        assert (CITYSCAPES.read(save(ids, tmp_path / "ids.png")) == expected).all(), path


def test_gta5s_layouts_by_index_and_by_colour(shared_data, tmp_path):
    space = LABEL_SPACES["gta5"]
    [path] = (shared_data / "authors" / "layouts" / "GTA256Full").glob("*.png")
    image = open_picture(path).image
    assert image.mode == "P"
    by_index = space.read(save(np.asarray(image), tmp_path / "ids.png"))
    image.convert("RGB").save(tmp_path / "colours.png")
    assert (by_index == space.read(path)).all() and (by_index == space.read(tmp_path / "colours.png")).all()
    expected = np.minimum(TRAIN_IDS, VOID)[np.asarray(image)]
    assert (by_index == expected).all() and (expected == VOID).any()

    every = Image.fromarray(np.arange(35, dtype=np.uint8)[None]).convert("P")  # what this one layout does not hold, too
    every.putpalette(image.getpalette())
    every.save(tmp_path / "every.png")
    assert (space.read(tmp_path / "every.png") == space.read(save(np.asarray(every), tmp_path / "ids.png"))).all()


def test_real_camvid_by_ids_and_by_colour(shared_data, tmp_path):
    for path in sorted((shared_data / "camvid" / "valannot").glob("*.png"))[::20]:
        layout = CAMVID.read(path)
        assert (layout == np.asarray(open_picture(path).image)).all()
        assert (CAMVID.read(save(CAMVID.draw(layout), tmp_path / "colours.png")) == layout).all()


def test_camvids_32_have_the_colours_of_the_11():
    """The 11 of the tutorial are those of the original's classes, but for the pavement."""
    original = LABEL_SPACES["camvid32"]
    names = {
        "sky": "Sky", "building": "Building", "pole": "Column_Pole", "road": "Road", "tree": "Tree", "sign": "SignSymbol",
        "fence": "Fence", "car": "Car", "pedestrian": "Pedestrian", "bicyclist": "Bicyclist", "void": "void",
    }  # fmt: skip
    for ours, theirs in names.items():
        assert CAMVID.colors[CAMVID.classes.index(ours)] == original.colors[original.classes.index(theirs)]
    by_id = [original.classes[original.ids[i]] for i in range(32)]
    assert by_id == sorted(by_id, key=str.lower) and by_id[-2:] == ["void", "Wall"]  # label_colors.txt is in this order


def test_ade20k(tmp_path):
    space = LABEL_SPACES["ade20k"]
    named = {
        0: "void",
        1: "wall",
        3: "sky",
        13: "person",
        21: "car",
        67: "flower",
        105: "fountain",
        128: "bicycle",
        150: "flag",
    }
    assert named == {i: space.classes[space.ids[i]] for i in named}
    colors = {"wall": (120, 120, 120), "sky": (6, 230, 230), "person": (150, 5, 61), "car": (0, 102, 200), "flag": (92, 0, 255)}
    assert colors == {name: space.colors[space.classes.index(name)] for name in colors}
    with pytest.raises(UserError, match=r"255 \(1 pixel\) is not one of ade20k's: 0\.\.150"):
        space.read(save(np.array([[255]], np.uint8), tmp_path / "reduced.png"))
    with pytest.raises(UserError, match=r"\(140, 140, 140\) \(1 pixel, nearest road or skyscraper\)"):
        space.read(save(np.full((1, 1, 3), 140, np.uint8), tmp_path / "grey.png"))


def test_cocostuff_is_numbered_as_its_png_files(tmp_path):
    space = LABEL_SPACES["cocostuff"]
    named = {0: "person", 90: "hair brush", 91: "banner", 168: "tree", 181: "wood", 255: "void"}
    assert named == {i: space.classes[space.ids[i]] for i in named}
    with pytest.raises(UserError, match=r"182 \(1 pixel\) is not one of cocostuff's: 0\.\.181, 255"):
        space.read(save(np.array([[182]], np.uint8), tmp_path / "one_more.png"))


def test_nyus_raw_ids():
    """Against ids that public code for the labelled frames writes out."""
    raw = {
        1: "book", 2: "bottle", 3: "cabinet", 4: "ceiling", 5: "chair", 7: "counter", 11: "floor", 15: "paper", 19: "table",
        20: "unknown", 21: "wall", 24: "sink", 26: "box", 28: "door", 35: "cup", 36: "desk", 42: "shelves", 55: "bag",
        59: "window", 62: "light", 64: "picture", 80: "blinds", 83: "sofa", 85: "books", 88: "bookshelf", 119: "pillow",
        141: "clothes", 143: "floor mat", 144: "lamp", 157: "bed", 894: "torah",
    }  # fmt: skip
    all894, all40, all13 = (LABEL_SPACES[name] for name in ("nyu894", "nyu40", "nyu13"))
    assert raw == {i: all894.classes[all894.ids[i]] for i in raw}
    assert all894.dtype == np.uint16 and {space.ids[0] for space in (all894, all40, all13)} == {894, 40, 13}
    for index, name in enumerate(all40.classes[:37]):  # each is one raw class of the same name
        assert [i for i, mapped in all40.ids.items() if mapped == index] == [all894.classes.index(name) + 1]
    others = {"garbage bin": "otherfurniture", "dishwasher": "otherstructure", "book": "otherprop", "unknown": "otherprop"}
    assert others == {name: all40.classes[all40.ids[all894.classes.index(name) + 1]] for name in others}


def test_nyus_40_and_13():
    groups = {
        "bed": "bed", "books": "books", "ceiling": "ceiling", "chair": "chair", "floor": "floor, floor mat",
        "furniture": "cabinet, bookshelf, counter, shelves, dresser, refridgerator, night stand, otherfurniture",
        "objects": "pillow, mirror, clothes, paper, towel, shower curtain, box, whiteboard, person, toilet, sink, lamp, "
        "bathtub, bag, otherstructure, otherprop",
        "picture": "picture", "sofa": "sofa", "table": "table, desk", "tv": "television", "wall": "wall, door",
        "window": "window, blinds, curtain",
    }  # fmt: skip
    all40, all13 = LABEL_SPACES["nyu40"], LABEL_SPACES["nyu13"]
    assert (*groups, "void") == all13.classes
    pairs = {(all13.classes[all13.ids[i]], all40.classes[all40.ids[i]]) for i in range(1, 895)}
    assert pairs == {(group, name) for group, names in groups.items() for name in names.split(", ")}
    for n in (40, 13):
        mapped = LABEL_SPACES[f"nyu{n}_mapped"]
        assert mapped.classes == LABEL_SPACES[f"nyu{n}"].classes
        assert mapped.ids == {0: n} | {i: i - 1 for i in range(1, n + 1)}


def test_generated_colours_can_be_told_apart():
    """Colours are told apart by their distance in CIELAB, where 2.3 can just be noticed. NYU's 895 have to be closer."""
    for count, least in ((13, 20), (40, 12), (182, 4), (894, 1)):
        colors = (*palette(count), (0, 0, 0), (255, 255, 255))
        lab = rgb2lab(np.array(colors)[None] / 255)[0]
        distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[~np.eye(count + 2, dtype=bool)]
        assert len({*colors}) == count + 2 and distances.min() > least, count
    assert palette(0) == () and palette(40)[:13] == palette(13) == ((204, 0, 255), (0, 255, 51), *palette(13)[2:])


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(
        UserError, match=r"citiscapes: no label space has this name, .* Did you mean 'cityscapes'\? .*nyu894, nyu40"
    ):
        find_label_space("citiscapes")
    with pytest.raises(UserError, match=r"none\.json: the file cannot be read \(No such file"):
        find_label_space(str(tmp_path / "none.json"))
    with pytest.raises(UserError, match="no label space has this name"):
        find_label_space(str(tmp_path))


def label_file(tmp_path, content, encoding="utf-8"):
    path = tmp_path / "garden.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding=encoding)
    return path


def test_a_file_needs_no_more_than_classes(tmp_path):
    space = find_label_space(str(label_file(tmp_path, {"classes": ["lawn", "Teich"]}, "utf-8-sig")))
    assert space == LabelSpace("garden", ("lawn", "Teich", "void"), (*palette(2), (0, 0, 0)), {0: 0, 1: 1})
    assert find_label_space(str(label_file(tmp_path, {"classes": ["lawn"], "name": "20250101"}))).name == "20250101"


def test_all_fields_of_a_file(tmp_path):
    fields = {
        "name": "park", "classes": ["lawn", "path"], "colors": [[0, 160, 0], [200, 180, 120]],
        "ids": {"4": "lawn", "-1": "void", "5": "lawn", "9": "path"}, "void_ids": [0, 65535],
        "void_colors": [[255, 255, 255], [0, 0, 0]],
    }  # fmt: skip
    space = read_label_file(label_file(tmp_path, fields))
    assert space == LabelSpace(
        "park", ("lawn", "path", "void"), ((0, 160, 0), (200, 180, 120), (0, 0, 0)),
        {4: 0, -1: 2, 5: 0, 9: 1, 0: 2, 65535: 2}, ((255, 255, 255),),
    )  # fmt: skip
    layout = space.read(save(np.array([[4, 5, 9], [0, 65535, 4]], np.uint16), tmp_path / "ids.png"))
    assert layout.tolist() == [[0, 0, 1], [2, 2, 0]]


def test_void_may_be_listed_with_its_own_colour_and_id(tmp_path):
    fields = {"classes": ["lawn", "void"], "colors": [[0, 0, 0], [255, 0, 0]], "ids": [3, 0], "void_ids": [0, 9]}
    space = read_label_file(label_file(tmp_path, fields))
    assert (space.classes, space.colors) == (("lawn", "void"), ((0, 0, 0), (255, 0, 0)))
    assert space.ids == {3: 0, 0: 1, 9: 1}
    assert read_label_file(label_file(tmp_path, {"classes": ["lawn", "void"]})).ids == {0: 0, 1: 1}


def test_generated_colours_are_none_of_voids(tmp_path):
    fields = {"classes": ["lawn", "path"], "void_colors": [list(palette(1)[0])]}
    assert read_label_file(label_file(tmp_path, fields)).colors == (*palette(3)[1:], (0, 0, 0))


@pytest.mark.parametrize(
    "fields, message",
    [
        ("", r"line 1, column 1: this is not JSON"),
        ('{"classes": ["lawn",\n "path"', r"line 2, column 8: this is not JSON"),
        ("[" * 100_000, r"the JSON is nested too deeply"),
        (["lawn"], r"fields in braces are needed, .* got \[\"lawn\"\]"),
        ({}, r"classes: a list of names is needed, .* got null"),
        ({"classes": []}, r"classes: a list of names is needed, .* got \[\]"),
        ({"classes": ["lawn", 3]}, r"classes: a list of names is needed"),
        ({"classes": {"lawn": 1}}, r"classes: a list of names is needed, .* got \{\"lawn\": 1\}"),
        ({"classes": ["lawn", "lawn"]}, r"classes: \"lawn\" is there twice"),
        ({"classes": ["void", "lawn"]}, r"classes: \"void\" must be \"void\", and the last"),
        ({"classes": ["lawn", "Void"]}, r"classes: \"Void\" must be \"void\", and the last"),
        ({"classes": ["a"], "name": 3}, r"name: a name in quotes is needed, got 3"),
        ({"classes": ["a"], "color": []}, r"color: there is no such field\. Did you mean 'colors'\? The fields: name, classes"),
        ('{"classes": ["a"], "classes": ["b"]}', r"\"classes\" is there twice"),
        ('{"classes": ["a", "b"], "ids": {"3": "a", "3": "b"}}', r"\"3\" is there twice"),
        ({"classes": ["a"], "colors": "red"}, r"colors: a list of colours is needed, .* got \"red\""),
        ({"classes": ["a"], "colors": [[1, 2]]}, r"colors: a colour is \[red, green, blue\], .* got \[1, 2\]"),
        ({"classes": ["a"], "colors": [[0.5, 0, 0]]}, r"colors: a colour is .* got \[0\.5, 0, 0\]"),
        ({"classes": ["a"], "colors": [[1, 2, 256]]}, r"colors: .* from 0 to 255, got \[1, 2, 256\]"),
        ({"classes": ["a", "b"], "colors": [[1, 2, 3]]}, r"colors: 2 are needed, one for each class, got 1"),
        ({"classes": ["a", "b"], "colors": [[1, 2, 3]] * 2}, r"colors: \[1, 2, 3\] is the colour of a and of b\. Change one\."),
        (
            {"classes": ["a"], "colors": [[0, 0, 0]]},
            r"colors: \[0, 0, 0\] is the colour of a and of void\. .* list void as the last",
        ),
        (
            {"classes": ["a"], "colors": [[1, 2, 3]], "void_colors": [[1, 2, 3]]},
            r"void_colors: \[1, 2, 3\] is the colour of a and",
        ),
        ({"classes": ["a"], "void_colors": [5]}, r"void_colors: a colour is .* got 5"),
        ({"classes": ["a"], "ids": 5}, r"ids: \{\"4\": \"a\"\} or a list .* got 5"),
        ({"classes": ["a", "b"], "ids": [1]}, r"ids: 2 are needed, one for each class, got 1"),
        ({"classes": ["a", "b"], "ids": [1, 1]}, r"ids: 1 is the id of a and of b"),
        ({"classes": ["a"], "ids": {"1": "b"}}, r"ids: 1 is \"b\", which is none of the classes"),
        ({"classes": ["lawn"], "ids": {"1": "lawm"}}, r"ids: 1 is \"lawm\", .* Did you mean 'lawn'\?"),
        ({"classes": ["a"], "ids": {"1": ["a"]}}, r"ids: 1 is \[\"a\"\], which is none of the classes"),
        ({"classes": ["a", "b"], "ids": {"1": "a"}}, r"ids: b has none"),
        ({"classes": ["a"], "ids": {"one": "a"}}, r"ids: an id is a whole number from -1 to 65535, got \"one\""),
        ({"classes": ["a"], "ids": {"01": "a"}}, r"ids: an id is a whole number .* got \"01\""),
        ({"classes": ["a"], "ids": [True]}, r"ids: an id is a whole number .* got true"),
        ({"classes": ["a"], "ids": [65536]}, r"ids: an id is a whole number from -1 to 65535, got 65536"),
        ({"classes": ["a"], "void_ids": 255}, r"void_ids: a list of ids is needed, such as \[255\], got 255"),
        ({"classes": ["a"], "void_ids": [-2]}, r"void_ids: an id is a whole number from -1 to 65535, got -2"),
        ({"classes": ["a"], "void_ids": [0]}, r"void_ids: 0 is the id of a and of void"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, fields, message):
    with pytest.raises(UserError, match=r"garden\.json: (" + message + ")"):
        read_label_file(label_file(tmp_path, fields))


def test_a_file_of_another_kind_is_named(tmp_path):
    path = save(np.zeros((4, 4), np.uint8), tmp_path / "layout.png")
    with pytest.raises(UserError, match=r"layout\.png: this is no text in UTF-8"):
        find_label_space(str(path))


SCALARS = st.none() | st.booleans() | st.integers(-2, 300) | st.floats() | st.sampled_from(["a", "b", "void", "1", ""])


def containers(inner: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["0", "1", "a"]), inner)


VALUES = SCALARS | containers(SCALARS | containers(SCALARS))
COLOURS = st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), max_size=3)
FILES = st.fixed_dictionaries(
    {"classes": st.lists(st.sampled_from(["a", "b", "void"]), max_size=3) | VALUES},
    optional={
        "name": VALUES,
        "colors": COLOURS | VALUES,
        "ids": st.dictionaries(st.sampled_from(["0", "1", "2"]), st.sampled_from(["a", "b", "void"])) | VALUES,
        "void_ids": st.lists(st.integers(0, 4), max_size=2) | VALUES,
        "void_colors": COLOURS | VALUES,
        "other": VALUES,
    },
)


@settings(deadline=None, max_examples=300)
@given(FILES)
def test_any_file_is_a_label_space_or_an_error_that_names_a_field(tmp_path_factory, fields):
    path = label_file(tmp_path_factory.getbasetemp(), fields)
    try:
        space = read_label_file(path)
    except UserError as error:
        assert re.match(rf"{re.escape(str(path))}: ({'|'.join(fields)}): .+", str(error)), error
    else:
        listed = fields["classes"]
        assert space.classes == tuple(listed + ["void"] * ("void" not in listed)) and "other" not in fields
        assert {*space.ids.values()} >= {*range(len(space.classes) - 1)}
        assert all(space.ids[i] == len(space.classes) - 1 for i in fields.get("void_ids", []))
        assert list(space.colors)[: len(listed)] == [*map(tuple, fields.get("colors", space.colors))][: len(listed)]
