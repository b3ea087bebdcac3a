import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from crn_jax.data.label_space import CAMVID, CITYSCAPES, LabelSpace, open_image
from crn_jax.errors import UserError

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
    with pytest.raises(UserError, match=r"blended\.png: 1 colours are not in camvid's palette"):
        CAMVID.read(tmp_path / "blended.png")


@pytest.mark.parametrize("palette", ["grey", "foreign"])
def test_a_palette_of_its_own_leaves_the_indices_as_ids(tmp_path, palette):
    image = Image.fromarray(IDS).convert("P")
    ramp = np.arange(256)[:, None].repeat(3, 1)
    image.putpalette((ramp if palette == "grey" else np.roll(255 - ramp, 1, 1) * [1, 0, 1] + [0, 3, 0]).ravel().tolist())
    image.save(tmp_path / "ids.png")
    assert (CAMVID.read(tmp_path / "ids.png") == IDS).all()


def test_ids_of_fewer_than_8_bits_are_refused(tmp_path):
    """Pillow would stretch them: in a 4-bit PNG, id 1 would be read as 17."""
    rows = b"".join(b"\0" + bytes([0x12, 0x30]) for _ in range(4))  # 4 x 4 pixels of 4 bits

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 4, 4, 4, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "four.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.raises(UserError, match=r"four\.png: a grey PNG of 4 bits"):
        CITYSCAPES.read(tmp_path / "four.png")


def test_cityscapes_ids(tmp_path):
    raw = np.array([[7, 8, 33, 0], [18, 17, 26, 11]], np.uint8)
    layout = CITYSCAPES.read(save(raw, tmp_path / "ids.png"))
    names = [[CITYSCAPES.classes[i] for i in row] for row in layout]
    assert names == [["road", "sidewalk", "bicycle", "void"], ["pole", "pole", "car", "building"]]


def test_the_authors_layouts(shared_data):
    """Ids by the released program's rule: the 19 colours by exact comparison, everything else void."""
    paths = sorted((shared_data / "authors" / "layouts").glob("Label*/*.png"))
    assert paths
    for path in paths:
        rgb = np.asarray(open_image(path).convert("RGB"))
        matches = [(rgb == np.array(color)).all(-1) for color in CITYSCAPES.colors[:19]]
        expected = np.where(np.any(matches, 0), np.argmax(matches, 0), 19)
        assert (CITYSCAPES.read(path) == expected).all(), path
    gta = next((shared_data / "authors" / "layouts" / "GTA256Full").glob("*.png"))
    indices = np.asarray(open_image(gta))
    by_index = np.array([CITYSCAPES.ids[i] for i in range(34)])[indices]
    assert (CITYSCAPES.read(gta) == by_index).all()


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
    raw[0, :3] = 57
    with pytest.raises(UserError, match=r"bad\.png: label id 57 \(3 pixels\) is not one of camvid's: 0\.\.11"):
        CAMVID.read(save(raw, tmp_path / "bad.png"))


def test_a_colour_out_of_the_palette_is_named_with_its_neighbour(tmp_path):
    rgb = CAMVID.draw(IDS).copy()
    rgb[1, 1:3] = (130, 2, 1)
    with pytest.raises(UserError, match=r"bad\.png: 1 colours .*\(130, 2, 1\) \(2 pixels, nearest building\)"):
        CAMVID.read(save(rgb, tmp_path / "bad.png"))


@pytest.mark.parametrize("keep", [0, 20, -30])
def test_a_damaged_file_is_named(tmp_path, keep):
    whole = save(IDS.repeat(50, 0).repeat(50, 1), tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:keep])
    with pytest.raises(UserError, match=r"cut\.png: the image is truncated or damaged"):
        open_image(tmp_path / "cut.png")


def test_other_modes_and_missing_files_are_refused(tmp_path):
    save(IDS, tmp_path / "gray.png", "LA")
    with pytest.raises(UserError, match=r"gray\.png: .* not of mode LA"):
        CAMVID.read(tmp_path / "gray.png")
    with pytest.raises(UserError, match=r"cannot be read"):
        CAMVID.read(tmp_path)
    with pytest.raises(UserError, match=r"none\.png: there is no such file"):
        CAMVID.read(tmp_path / "none.png")
