import dataclasses
import re
import struct
import zlib

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crn_jax.data.labels.indexed import AmbiguousPalette
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.data.labels.published import CAMVID, CITYSCAPES, LABEL_SPACES
from crn_jax.data.pictures import open_picture
from crn_jax.errors import UserError

pytestmark = pytest.mark.quick

IDS = np.random.default_rng(0).integers(0, 12, (6, 8)).astype(np.uint8)


def save(array, path, mode=None):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
    return path


def test_ids_and_colours_read_alike(tmp_path):
    colors = CAMVID.draw(IDS)
    palette = Image.fromarray(IDS).convert("P")
    palette.putpalette(np.array(CAMVID.colors, np.uint8).ravel().tolist())
    palette.save(tmp_path / "palette.png")
    paths = [
        save(IDS, tmp_path / "ids.png"),
        save(IDS.astype(np.uint16), tmp_path / "ids16.png"),
        save(colors, tmp_path / "rgb.png"),
        save(colors, tmp_path / "rgba.png", "RGBA"),
        tmp_path / "palette.png",
    ]
    for path in paths:
        layout = CAMVID.read(path)
        assert layout.dtype == np.uint8 and (layout == IDS).all(), path


def test_a_palette_in_another_order_is_read_by_colour(tmp_path):
    image = Image.fromarray(CAMVID.draw(IDS)).quantize()
    image.save(tmp_path / "quantized.png")
    assert (CAMVID.read(tmp_path / "quantized.png") == IDS).all()


def test_a_palette_picture_with_a_strange_colour_is_not_taken_for_ids(tmp_path):
    colors = CAMVID.draw(IDS).copy()
    colors[0, 0] = (131, 5, 7)
    Image.fromarray(colors).quantize().save(tmp_path / "blended.png")
    with pytest.raises(UserError, match=r"blended\.png: 1 colour is not in camvid's palette"):
        CAMVID.read(tmp_path / "blended.png")


@pytest.mark.parametrize("palette", ["grey", "foreign"])
def test_a_palette_of_its_own_leaves_the_indices_as_ids(tmp_path, palette):
    image = Image.fromarray(IDS).convert("P")
    ramp = np.arange(256)[:, None].repeat(3, 1)
    image.putpalette((ramp if palette == "grey" else np.roll(255 - ramp, 1, 1) * [1, 0, 1] + [0, 3, 0]).ravel().tolist())
    image.save(tmp_path / "ids.png")
    assert (CAMVID.read(tmp_path / "ids.png") == IDS).all()


def write_png(path, bits, color_type, rows, palette=None):
    """4 x 4 pixels of a kind that Pillow does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    content = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, bits, color_type, 0, 0, 0))
    content += chunk(b"PLTE", palette) if palette else b""
    content += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def test_ids_of_fewer_than_8_bits_are_refused(tmp_path):
    """Pillow would stretch them: in a 4-bit PNG, id 1 would be read as 17."""
    path = write_png(tmp_path / "four.png", 4, 0, b"\0\x12\x30" * 4)
    with pytest.raises(UserError, match=r"four\.png: a grey PNG of 4 bits"):
        CITYSCAPES.read(path)


def test_colours_of_16_bits_are_refused(tmp_path):
    """Pillow would keep the upper 8, which are 0 where somebody has saved 0..255 as 16 bits: all would be void."""
    path = write_png(tmp_path / "deep.png", 16, 2, (b"\0" + b"\0\x80\0\x40\0\x80" * 4) * 4)
    with pytest.raises(UserError, match=r"deep\.png: a colour PNG of 16 bits"):
        CITYSCAPES.read(path)


def test_an_index_past_the_palette_is_named(tmp_path):
    path = write_png(tmp_path / "short.png", 8, 3, b"\0\0\1\2\5" * 4, palette=bytes([0, 0, 0, 128, 0, 0, 128, 64, 128]))
    with pytest.raises(UserError, match=r"short\.png: index 5 has no colour in the palette of 3"):
        CAMVID.read(path)


def test_an_all_black_palette_picture_is_read_by_what_its_palette_tells(tmp_path):
    black = Image.fromarray(np.zeros((2, 3), np.uint8)).convert("P")
    grey, colours = range(256), [(0, 0, 0), *CAMVID.colors[:-1]]
    for name, palette, expected in [("grey", np.repeat(grey, 3), 0), ("colours", np.ravel(colours), 11)]:
        black.putpalette(palette.tolist())
        black.save(tmp_path / f"{name}.png")
        assert (CAMVID.read(tmp_path / f"{name}.png") == expected).all()
    black.putpalette([0, 0, 0])
    black.save(tmp_path / "one.png")
    with pytest.raises(
        UserError, match=r"one\.png: a palette PNG .* shows sky \(6 pixels\); by its colours, void \(6 pixels\)"
    ):
        CAMVID.read(tmp_path / "one.png")
    assert (CITYSCAPES.read(tmp_path / "one.png") == 19).all()  # either way


def test_transparent_pixels_are_refused(tmp_path):
    rgba = np.dstack([CAMVID.draw(IDS), np.full(IDS.shape, 255, np.uint8)])
    rgba[0, :3, 3] = (0, 127, 254)
    with pytest.raises(UserError, match=r"half\.png: 3 pixels are transparent\. Paint them in void's colour, \(0, 0, 0\)"):
        CAMVID.read(save(rgba, tmp_path / "half.png"))


def test_a_colour_or_a_grey_that_is_declared_transparent_is_refused(tmp_path):
    """As programs write RGBA files that have only whole pixels and clear ones."""
    color = tuple(int(value) for value in CAMVID.colors[1])
    count = int((IDS == 1).sum())
    assert count
    Image.fromarray(CAMVID.draw(IDS)).save(tmp_path / "rgb.png", transparency=color)
    Image.fromarray(IDS.astype(np.uint8)).save(tmp_path / "grey.png", transparency=1)
    for name in ("rgb.png", "grey.png"):
        with pytest.raises(UserError, match=rf"{name}: {count} pixels are transparent"):
            CAMVID.read(tmp_path / name)
    Image.fromarray(CAMVID.draw(IDS)).save(tmp_path / "unused.png", transparency=(1, 2, 3))
    assert (CAMVID.read(tmp_path / "unused.png") == IDS).all()


@pytest.mark.parametrize("colored", [False, True])
def test_a_layout_is_looked_up_in_bands_as_in_one(tmp_path, monkeypatch, colored):
    """Whatever the number of pixels that are looked up at a time: the class ids, and the unknown values by their pixels."""
    stored = np.random.default_rng(0).integers(0, 14, (17, 5), np.uint8)  # CamVid's ids end at 11
    if colored:
        stored = np.concatenate([CAMVID.draw(np.minimum(stored, 11)), np.full((3, 5, 3), 77, np.uint8)])
    path = save(stored, tmp_path / "layout.png")
    whole = CAMVID.examine(path)
    assert whole.unknown
    monkeypatch.setattr("crn_jax.data.labels.label_space.AT_ONCE", 12)
    banded = CAMVID.examine(path)
    np.testing.assert_array_equal(banded.layout, whole.layout)
    assert list(banded.unknown.items()) == list(whole.unknown.items())


def test_lossy_formats_are_refused_even_where_every_value_is_known(tmp_path):
    save(np.full((8, 8), 3, np.uint8), tmp_path / "ids.jpg")
    save(CAMVID.draw(IDS), tmp_path / "rgb.webp")
    for name in ("ids.jpg", "rgb.webp"):
        with pytest.raises(UserError, match=rf"{name}: lossy (JPEG|WEBP) .* as PNG"):
            CAMVID.read(tmp_path / name)
    Image.fromarray(CAMVID.draw(IDS)).save(tmp_path / "exact.webp", lossless=True)
    assert (CAMVID.read(tmp_path / "exact.webp") == IDS).all()


def test_ids_saved_as_three_channels_are_recognised(tmp_path):
    with pytest.raises(UserError, match=r"three\.png: 11 colours are .* If they are, save them as a PNG of one channel"):
        CAMVID.read(save(IDS[..., None].repeat(3, -1), tmp_path / "three.png"))


def test_cityscapes_ids(tmp_path):
    raw = np.array([[7, 8, 33, 0], [18, 17, 26, 11]], np.uint8)
    layout = CITYSCAPES.read(save(raw, tmp_path / "ids.png"))
    names = [[CITYSCAPES.classes[i] for i in row] for row in layout]
    assert names == [["road", "sidewalk", "bicycle", "void"], ["pole", "pole", "car", "building"]]


def test_more_than_256_classes_take_uint16(tmp_path):
    classes = (*(str(i) for i in range(299)), "void")
    colors = tuple((i // 256, i % 256, 7) for i in range(300))
    many = LabelSpace("many", classes, colors, {i: i for i in range(300)})
    ids = np.arange(300, dtype=np.uint16).reshape(15, 20)
    for name, array in (("ids", ids), ("colours", many.draw(ids))):
        layout = many.read(save(array, tmp_path / f"{name}.png"))
        assert layout.dtype == np.uint16 and (layout == ids).all()


def test_an_id_out_of_range_is_named_with_its_pixels(tmp_path):
    raw = IDS.copy()
    raw[2, 4:7] = 57
    path = save(raw, tmp_path / "bad.png")
    with pytest.raises(
        UserError, match=r"bad\.png: label id 57 \(3 pixels\) is not one of camvid's: 0\.\.11.* row 2, column 4"
    ):
        CAMVID.read(path)
    with pytest.raises(UserError, match=r"label ids 57 \(2 pixels\), 58 \(1 pixel\) are none of camvid's"):
        CAMVID.from_ids(np.where(raw == 57, [[57] * 6 + [58] * (raw.shape[1] - 6)], raw).astype(np.int64), "frame 7")
    with pytest.raises(UserError, match=r"frame 7: label id 57 \(3 pixels\)"):
        CAMVID.from_ids(raw.astype(np.int64), "frame 7")


def test_examine_counts_what_read_complains_of(tmp_path):
    raw, rgb = IDS.copy(), CAMVID.draw(IDS).copy()
    raw[0, :3], raw[1, 0] = 57, 12
    rgb[0, :3], rgb[1, 0] = (1, 2, 3), (4, 5, 6)
    void = IDS.copy()
    void[0, :3] = void[1, 0] = 11
    for array, unknown in [(raw, {57: 3, 12: 1}), (rgb, {(1, 2, 3): 3, (4, 5, 6): 1}), (IDS, {})]:
        layout, found, _ = CAMVID.examine(save(array, tmp_path / "x.png"))
        assert list(found.items()) == list(unknown.items())  # the most frequent first
        assert (layout == (void if unknown else IDS)).all() and layout.dtype == np.uint8


def test_negative_ids_are_read_where_a_format_has_them(tmp_path):
    signed = np.array([[-1, 7], [33, 0]], np.int32)
    assert CITYSCAPES.from_ids(signed, "signed").tolist() == [[19, 0], [18, 19]]
    Image.fromarray(signed).save(tmp_path / "signed.tif")
    with pytest.raises(UserError, match=r"signed\.tif: the file is TIFF.* Convert it to PNG"):
        CITYSCAPES.read(tmp_path / "signed.tif")


def test_a_colour_out_of_the_palette_is_named_with_its_neighbour(tmp_path):
    rgb = CAMVID.draw(IDS).copy()
    rgb[1, 1:3] = (130, 2, 1)
    with pytest.raises(UserError, match=r"bad\.png: 1 colour is .*\(130, 2, 1\) \(2 pixels, nearest building\)"):
        CAMVID.read(save(rgb, tmp_path / "bad.png"))


@pytest.mark.parametrize("keep", [0, 20, -30])
def test_a_damaged_file_is_named(tmp_path, keep):
    whole = save(IDS.repeat(50, 0).repeat(50, 1), tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:keep])
    with pytest.raises(UserError, match=r"cut\.png: the (image is truncated or damaged|file is empty)"):
        open_picture(tmp_path / "cut.png")


def test_checksums_are_looked_at(tmp_path):
    """Decoders pass over them, and some damaged bits decode to other ids."""
    content = bytearray(save(IDS, tmp_path / "whole.png").read_bytes())
    content[-13] ^= 1  # of the pixels' chunk, which the 12 bytes of the last one follow
    (tmp_path / "flipped.png").write_bytes(content)
    with pytest.raises(UserError, match=r"flipped\.png: the image is truncated or damaged \(the checksum of a part IDAT"):
        CAMVID.read(tmp_path / "flipped.png")


def test_other_modes_and_missing_files_are_refused(tmp_path):
    save(IDS, tmp_path / "gray.png", "LA")
    with pytest.raises(UserError, match=r"gray\.png: .* not of mode LA"):
        CAMVID.read(tmp_path / "gray.png")
    with pytest.raises(UserError, match=r"cannot be read"):
        CAMVID.read(tmp_path)
    with pytest.raises(UserError, match=r"none\.png: there is no such file"):
        CAMVID.read(tmp_path / "none.png")


MODES = ("8 bits", "16 bits", "grey palette", "foreign palette", "palette", "RGB", "RGBA")


@st.composite
def stored_layouts(draw):
    """A label space's name, class ids, and a picture of them in some mode, in any of the ids and colours they may have."""
    name, mode = draw(st.sampled_from(sorted(LABEL_SPACES))), draw(st.sampled_from(MODES))
    space = LABEL_SPACES[name]
    if mode == "palette" and space.num_classes > 200:
        mode = "RGB"
    by_colour = mode in ("palette", "RGB", "RGBA")
    if by_colour:
        pairs = [*((c, i) for i, c in enumerate(space.colors)), *((c, space.num_classes - 1) for c in space.void_colors)]
    else:
        pairs = [(i, c) for i, c in space.ids.items() if 0 <= i < (65536 if mode == "16 bits" else 256)]
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    chosen = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, len(pairs) - 1)))
    values, layout = (np.array([pair[part] for pair in pairs])[chosen] for part in (0, 1))
    if mode == "palette":
        order = np.array(draw(st.permutations(range(len(pairs)))))
        image = Image.fromarray(np.argsort(order)[chosen].astype(np.uint8)).convert("P")
        image.putpalette(np.array([pairs[i][0] for i in order], np.uint8).ravel().tolist())
    elif mode == "16 bits":
        image = Image.fromarray(values.astype(np.uint16))
    else:
        image = Image.fromarray(values.astype(np.uint8))
        if "palette" in mode:
            image = image.convert("P")
            foreign = mode == "foreign palette"
            image.putpalette([v for i in range(256) for v in ((255 - i, 3, i) if foreign else (i, i, i))])
        elif mode == "RGBA":
            image = image.convert("RGBA")
    return name, layout, image


@settings(deadline=None, max_examples=150)
@given(stored_layouts())
def test_any_layout_is_read_as_it_was_written(tmp_path_factory, stored):
    name, layout, image = stored
    space = LABEL_SPACES[name]
    image.save(path := tmp_path_factory.getbasetemp() / "any.png")
    try:
        found = space.read(path)
    except AmbiguousPalette:  # refused, rather than read as other classes; said what it holds, it is read
        foreign = image.getpalette()[1::3] == [3] * 256
        space = dataclasses.replace(space, read_as="ids" if foreign else "colors")
        found = space.read(path)
    assert found.dtype == space.dtype and found.tolist() == layout.tolist()
    assert space.examine(path)[0].tolist() == layout.tolist() and space.examine(path)[1] == {}


@settings(deadline=None, max_examples=100)
@given(stored_layouts(), st.data())
def test_what_is_not_of_the_label_space_is_named_with_its_place(tmp_path_factory, stored, data):
    name, layout, image = stored
    space = LABEL_SPACES[name]
    wrong = np.asarray(image.convert("RGB") if image.mode in ("P", "RGBA") else image).copy()
    row, column = (data.draw(st.integers(0, side - 1)) for side in layout.shape)
    if wrong.ndim == 3:
        colour = data.draw(st.tuples(*[st.integers(0, 255)] * 3).filter(lambda c: c not in space.colors + space.void_colors))
        wrong = space.draw(layout).copy()
        wrong[row, column], named = colour, str(colour)
    else:
        wrong[row, column] = data.draw(st.integers(0, np.iinfo(wrong.dtype).max).filter(lambda i: i not in space.ids))
        named = str(wrong[row, column])
    path = save(wrong, tmp_path_factory.getbasetemp() / "wrong.png")
    with pytest.raises(UserError, match=rf"wrong\.png.*{re.escape(named)} \(1 pixel.*row {row}, column {column}"):
        space.read(path)


@settings(deadline=None, max_examples=150)
@given(stored_layouts(), st.data())
def test_a_damaged_file_is_an_error_or_harmless(tmp_path_factory, stored, data):
    name, layout, image = stored
    space = LABEL_SPACES[name]
    image.save(path := tmp_path_factory.getbasetemp() / "damaged.png")
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= data.draw(st.integers(1, 255))
    else:
        del content[place : place + data.draw(st.integers(1, 40))]
    path.write_bytes(content)
    try:
        found = space.read(path)
    except UserError as error:
        assert "damaged.png: the image is truncated or damaged" in str(error)
    else:
        assert found.tolist() == layout.tolist()
