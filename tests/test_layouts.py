"""The layouts that launch.synthesize finds in files and folders, and the names of their images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crn_jax.errors import UserError
from launch.synthesis.layouts import find_layouts
from launch.synthesize import target_names

pytestmark = pytest.mark.quick


def test_png_and_lossless_webp_are_found_as_in_a_training(tmp_path):
    for name in ("c.png", "a.webp", "B.WEBP", "photograph.jpg", ".hidden.webp"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name, lossless=True)
    found = list(find_layouts((tmp_path,)))
    assert [path.name for path in found] == ["B.WEBP", "a.webp", "c.png"]
    assert target_names(found, 1) == [["B.png"], ["a.png"], ["c.png"]]


def test_two_files_of_one_name_are_refused(tmp_path):
    for name in ("a.png", "a.webp"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name, lossless=True)
    with pytest.raises(UserError, match="Several layouts are called a: "):
        target_names(list(find_layouts((tmp_path,))), 1)


def test_a_name_that_is_too_long_with_its_number_is_refused():
    with pytest.raises(UserError, match="the name of its image would have more than 255 bytes"):
        target_names([Path("x" * 251 + ".png")], 3)
    assert target_names([Path("x" * 251 + ".png")], 1)


def test_a_folder_without_layouts_is_named(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(UserError, match="there is no PNG or WebP file in this folder"):
        list(find_layouts((tmp_path,)))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a" / "c.png")
    with pytest.raises(UserError, match=f"Its subfolders have some: give them instead, such as {tmp_path / 'a'}"):
        list(find_layouts((tmp_path,)))
