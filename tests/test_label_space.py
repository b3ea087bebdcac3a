import numpy as np
import pytest
from PIL import Image

from crn_jax.data.label_space import CAMVID, CITYSCAPES, open_image
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
    assert (CITYSCAPES.read(gta) == by_index).mean() > 0.99


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
    with pytest.raises(UserError, match=r"none\.png: there is no such file"):
        CAMVID.read(tmp_path / "none.png")
