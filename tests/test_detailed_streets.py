import itertools

import numpy as np
import pytest

from crn_jax.data.detailed_streets import MOODS, render_detailed_street
from crn_jax.data.labels.published import CITYSCAPES
from crn_jax.data.sources import DataConfig, open_source

ROAD, BUILDING, SKY, CAR = (CITYSCAPES.classes.index(name) for name in ("road", "building", "sky", "car"))


@pytest.mark.quick
@pytest.mark.parametrize("size", [(16, 32), (96, 128), (128, 96), (37, 53)])
def test_any_size(size):
    street = render_detailed_street(5, size)
    assert street.layout.shape == size and street.layout.dtype == np.uint8
    assert street.photograph.shape == (*size, 3) and street.photograph.dtype == np.uint8
    assert street.layout.max() < CITYSCAPES.num_classes


def test_scenes_follow_from_their_index():
    first, again, other = (render_detailed_street(i, (32, 64)) for i in (7, 7, 8))
    assert (first.layout == again.layout).all() and (first.photograph == again.photograph).all()
    assert (first.layout != other.layout).any()


def test_the_population_covers_classes_and_moods():
    streets = [render_detailed_street(i, (32, 64)) for i in range(40)]
    present = {CITYSCAPES.classes[i] for i in np.unique([s.layout for s in streets])}
    assert present >= {"road", "sidewalk", "building", "vegetation", "sky", "car", "person", "pole", "terrain", "void"}
    assert {s.mood for s in streets} == set(MOODS)


@pytest.mark.parametrize("index", [3, 4, 5])
def test_a_scene_in_another_mood(index):
    own = render_detailed_street(index, (32, 64))
    moods = {mood: render_detailed_street(index, (32, 64), mood) for mood in MOODS}
    assert (moods[own.mood].photograph == own.photograph).all()
    assert all((street.layout == own.layout).all() and street.mood == mood for mood, street in moods.items())
    photographs = [street.photograph.astype(float) for street in moods.values()]
    assert min(np.abs(one - other).mean() for one, other in itertools.combinations(photographs, 2)) > 10


def test_light_falls_as_the_mood_says():
    streets = {mood: render_detailed_street(4, (64, 128), mood) for mood in MOODS}
    brightness = {mood: street.photograph.mean() for mood, street in streets.items()}
    assert brightness["night"] < brightness["dusk"] < min(brightness[mood] for mood in ("noon", "autumn", "fog", "snow"))
    walls = {mood: street.photograph[street.layout == BUILDING].astype(float) for mood, street in streets.items()}
    lit = np.percentile(walls["night"], 95) / np.median(walls["night"])  # windows shine in the dark, and not at noon
    assert lit > 3 > np.percentile(walls["noon"], 95) / np.median(walls["noon"])
    far = streets["fog"].photograph[streets["fog"].layout == CAR].std()
    assert far < streets["noon"].photograph[streets["noon"].layout == CAR].std()


@pytest.mark.quick
def test_detailed_streets_need_no_files():
    source = open_source(DataConfig("detailed_streets", num_scenes=3), "train", (16, 32))
    held_out = open_source(DataConfig("detailed_streets"), "val", (16, 32))
    assert len(source) == 3 and source.label_space == CITYSCAPES
    assert (source[0]["layout"] == render_detailed_street(0, (16, 32)).layout).all()
    assert all((source[i]["layout"] != held_out[i]["layout"]).any() for i in range(3))
    with pytest.raises(IndexError):
        source[3]
