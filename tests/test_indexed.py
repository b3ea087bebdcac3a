"""Palette PNGs: ids or colours, right or refused."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crn_jax.data.labels.indexed import AmbiguousPalette
from crn_jax.data.labels.label_file import read_label_file
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.data.labels.published import CAMVID, CITYSCAPES, LABEL_SPACES
from crn_jax.errors import UserError

pytestmark = pytest.mark.quick


def voc(count: int) -> np.ndarray:
    """PASCAL VOC's colour map, as the development kit's VOClabelcolormap computes it, bit by bit."""
    colors = np.zeros((count, 3), np.uint8)
    for i in range(count):
        index = i
        for j in range(8):
            for channel in range(3):
                colors[i, channel] |= (index >> channel & 1) << (7 - j)
            index >>= 3
    return colors


def tab20() -> np.ndarray:
    """matplotlib's tab20."""
    digits = (
        "1f77b4 aec7e8 ff7f0e ffbb78 2ca02c 98df8a d62728 ff9896 9467bd c5b0d5 "
        "8c564b c49c94 e377c2 f7b6d2 7f7f7f c7c7c7 bcbd22 dbdb8d 17becf 9edae5"
    )
    return np.array([list(bytes.fromhex(color)) for color in digits.split()], np.uint8)


FOREIGN = {
    "voc": voc(256),
    "paddleseg": voc(257)[1:],
    "ade20k": np.array([(0, 0, 0), *LABEL_SPACES["ade20k"].colors[:-1]], np.uint8),
    "greys": np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1),
    "matplotlib": tab20(),
    "stretched greys": np.linspace(0, 255, 34).astype(np.uint8)[:, None].repeat(3, 1),
    "random": np.random.default_rng(3).integers(0, 256, (256, 3)).astype(np.uint8),
    "padded": np.concatenate([voc(21), np.zeros((235, 3), np.uint8)]),
    "camvid": np.array(CAMVID.colors, np.uint8),
    "nyu40": np.array(LABEL_SPACES["nyu40"].colors, np.uint8),
    "cocostuff": np.array(LABEL_SPACES["cocostuff"].colors, np.uint8),
    "cityscapes, one level off": np.array(CITYSCAPES.colors, np.uint8) + 1,
}
OWN = LabelSpace("own", ("road", "car", "void"), ((128, 0, 0), (0, 128, 0), (0, 0, 0)), {3: 0, 5: 1, 0: 2})
NAMES_ALONE = dataclasses.replace(
    LABEL_SPACES["nyu13_mapped"], name="names alone", ids={i: i for i in range(LABEL_SPACES["nyu13_mapped"].num_classes)}
)
SPACES = [CAMVID, CITYSCAPES, *(LABEL_SPACES[n] for n in ("camvid32", "gta5", "ade20k", "cocostuff")), OWN, NAMES_ALONE]


def save(indices: np.ndarray, palette: np.ndarray, path, **options):
    image = Image.fromarray(indices.astype(np.uint8)).convert("P")
    image.putpalette(np.asarray(palette, np.uint8).ravel().tolist())
    image.save(path, **options)
    return path


def compacted(indices: np.ndarray, palette: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same picture with only the colours that occur, as optimizers write it."""
    used, renumbered = np.unique(indices, return_inverse=True)
    return renumbered.reshape(indices.shape), palette[used]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("indexed")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_ids_under_any_palette_are_right_or_refused(folder, data):
    space, name = data.draw(st.sampled_from(SPACES)), data.draw(st.sampled_from(sorted(FOREIGN)))
    palette = FOREIGN[name]
    possible = sorted(i for i in space.ids if 0 <= i < len(palette))
    used = data.draw(st.lists(st.sampled_from(possible), min_size=1, max_size=8, unique=True))
    ids = np.resize(used, (4, 6))
    indices, shown = compacted(ids, palette) if data.draw(st.booleans()) else (ids, palette)
    if name == "camvid" and space is CAMVID:
        return  # this is the label space's own palette, in which indices and colours agree unless it was compacted
    if {*map(tuple, shown.tolist())} <= space.class_of_color.keys():
        return  # the file is the same as a drawing in the label space's colours
    path = save(indices, shown, folder / "ids.png")
    try:
        layout = space.read(path)
    except UserError:
        return
    assert (layout == space.from_ids(ids, "ids")).all()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_drawings_in_the_spaces_colours_are_right_or_refused(folder, data):
    space = data.draw(st.sampled_from(SPACES))
    classes = data.draw(st.lists(st.sampled_from(range(space.num_classes)), min_size=1, max_size=9, unique=True))
    unused = data.draw(st.lists(st.sampled_from(range(space.num_classes)), max_size=4, unique=True))
    order = [*classes, *(n for n in unused if n not in classes)]
    palette = np.array([space.colors[n] for n in order], np.uint8)
    if data.draw(st.booleans()):
        filling = data.draw(st.sampled_from([0, 255]))
        palette = np.concatenate([palette, np.full((256 - len(palette), 3), filling, np.uint8)])
    path = save(np.resize(range(len(classes)), (4, 6)), palette, folder / "drawing.png")
    expected = np.resize(classes, (4, 6))
    try:
        layout = space.read(path)
    except UserError:
        # Two colours beside black may begin VOC's map, or PaddleSeg's; black alone tells nothing; others are generated.
        assert len({space.colors[n] for n in order} - {(0, 0, 0)}) <= 2 or not space.has_own_colors
        return
    assert (layout == expected).all()


@pytest.mark.parametrize("name", ["voc", "paddleseg", "ade20k", "greys", "matplotlib", "random"])
def test_indices_under_an_unrelated_palette_are_ids(tmp_path, name):
    ids = np.array([[7, 8, 11, 13], [17, 7, 8, 8]])
    path = save(ids, FOREIGN[name], tmp_path / "ids.png")
    assert (CITYSCAPES.read(path) == CITYSCAPES.from_ids(ids, "ids")).all()


def test_two_readings_are_shown_and_a_flag_settles_it(tmp_path):
    ids = np.array([[0, 1, 3, 7], [0, 0, 1, 1]])
    path = save(ids, voc(256), tmp_path / "voc.png")
    with pytest.raises(AmbiguousPalette) as refusal:
        CAMVID.read(path)
    said = str(refusal.value)
    assert "voc.png" in said and "--data.read ids" in said and "--data.read colors" in said
    assert "sky (3 pixels)" in said and "void (3 pixels)" in said  # id 0, and black
    colors = np.array([[11, 1, 5, 0], [11, 11, 1, 1]])
    for reading, expected in (("ids", ids), ("colors", colors)):
        assert (dataclasses.replace(CAMVID, read_as=reading).read(path) == expected).all()
        assert (CAMVID.readings(path)[reading] == expected).all()
    assert CAMVID.readings(save_grey(ids, tmp_path / "grey.png")) == {}


def save_grey(ids, path):
    Image.fromarray(ids.astype(np.uint8)).save(path)
    return path


def test_a_background_alone_is_refused_where_it_may_be_void(tmp_path):
    """Id 0 of CamVid is sky, and black is void."""
    nothing = np.zeros((2, 3))
    with pytest.raises(AmbiguousPalette):
        CAMVID.read(save(nothing, voc(256), tmp_path / "voc.png"))
    assert (CAMVID.read(save(nothing, [(0, 0, 0), *CAMVID.colors[:-1]], tmp_path / "own.png")) == 11).all()
    with pytest.raises(AmbiguousPalette):
        CAMVID.read(save(nothing, [(0, 0, 0), *tab20()], tmp_path / "tab.png"))


@pytest.mark.parametrize(
    "palette, space",
    [
        ([(0, 0, 0), (7, 7, 7), (8, 8, 8), (11, 11, 11)], CITYSCAPES),  # the greys are ids
        (np.array(CITYSCAPES.colors) + 1, CITYSCAPES),
        (np.clip(np.array(CAMVID.colors), 0, 253) + 2, CAMVID),
        (voc(21)[[0, 2, 4, 5, 6]], CAMVID),  # VOC's, numbered anew
        ([(0, 0, 0), (255, 255, 255)], OWN),
    ],
)
def test_palettes_whose_indices_may_be_no_ids_are_refused(tmp_path, palette, space):
    indices = np.arange(len(palette))[None].repeat(2, 0)
    with pytest.raises(UserError, match=r"doubt\.png: "):
        space.read(save(indices, palette, tmp_path / "doubt.png"))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_few_bits(tmp_path, bits):
    count = min(2**bits, 12)
    order = np.random.default_rng(0).permutation(12)[:count]
    classes = np.resize(range(count), (3, 8))
    filled = [(0, 0, 0)] * (5 if bits == 8 else 0)  # 16 entries would be saved with 4 bits
    path = save(classes, [CAMVID.colors[n] for n in order] + filled, tmp_path / "few.png", bits=bits)
    assert path.read_bytes()[24] == bits and (CAMVID.read(path) == order[classes]).all()


def test_transparent_colours_are_refused_unless_they_are_void(tmp_path):
    indices = np.array([[0, 1, 2, 2]])
    palette = [CAMVID.colors[n] for n in (11, 3, 8)]
    clear = {"transparency": bytes([0, 255, 255])}
    assert (CAMVID.read(save(indices, palette, tmp_path / "void.png", **clear)) == [[11, 3, 8, 8]]).all()
    with pytest.raises(UserError, match=r"car\.png: 2 pixels are transparent"):
        CAMVID.read(save(indices, palette, tmp_path / "car.png", transparency=2))


def test_ade20ks_palette_has_one_colour_twice(tmp_path):
    """Road and skyscraper are (140, 140, 140) in the published palette, and one level apart here."""
    palette = np.array([(0, 0, 0), *LABEL_SPACES["ade20k"].colors[:-1]], np.uint8)
    palette[[7, 49]] = 140
    ids = np.array([[0, 1, 3, 5], [7, 49, 3, 3]])
    path = save(ids, palette, tmp_path / "ade.png")
    assert (LABEL_SPACES["ade20k"].read(path) == LABEL_SPACES["ade20k"].from_ids(ids, "")).all()


def test_the_label_file_says_how_palettes_are_read(tmp_path):
    (tmp_path / "own.json").write_text('{"classes": ["lawn", "path"], "colors": [[128, 0, 0], [0, 128, 0]], "read": "ids"}')
    space = read_label_file(tmp_path / "own.json")
    path = save(np.array([[0, 1, 1]]), [(0, 128, 0), (128, 0, 0)], tmp_path / "layout.png")
    assert space.read_as == "ids" and (space.read(path) == [[0, 1, 1]]).all()
    assert (dataclasses.replace(space, read_as=None).read(path) == [[1, 0, 0]]).all()
    (tmp_path / "own.json").write_text('{"classes": ["lawn"], "read": "colours"}')
    with pytest.raises(UserError, match=r'own\.json: read: "ids" or "colors" is needed, got "colours"'):
        read_label_file(tmp_path / "own.json")
