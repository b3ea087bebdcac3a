import numpy as np
import pytest

from crn_jax.data.labels.published import CITYSCAPES
from crn_jax.data.streets import CAR_COLORS, TIMES, WEATHERS, render_street
from launch.hidden_choices import shown


@pytest.mark.quick
@pytest.mark.parametrize("size", [(16, 32), (96, 128), (128, 96), (37, 53)])
def test_any_size(size):
    street = render_street(5, size)
    assert street.layout.shape == size and street.layout.dtype == np.uint8
    assert street.photograph.shape == (*size, 3) and street.photograph.dtype == np.uint8
    assert street.layout.max() < CITYSCAPES.num_classes


def test_scenes_follow_from_their_index():
    first, again, other = (render_street(i, (48, 96)) for i in (7, 7, 8))
    assert (first.layout == again.layout).all() and (first.photograph == again.photograph).all()
    assert (first.layout != other.layout).any()


def test_the_population_covers_classes_and_hidden_choices():
    streets = [render_street(i, (32, 64)) for i in range(60)]
    present = {CITYSCAPES.classes[i] for i in np.unique([s.layout for s in streets])}
    assert present >= {"road", "sidewalk", "building", "vegetation", "sky", "car", "person", "pole", "terrain", "void"}
    assert {s.choices.time for s in streets} == set(TIMES)
    assert {s.choices.weather for s in streets} == set(WEATHERS)
    assert {color for s in streets for color in s.choices.car_colors} == set(CAR_COLORS)


def test_clear_days():
    streets = [render_street(i, (32, 64), clear_days=True) for i in range(20)]
    assert {(s.choices.time, s.choices.weather) for s in streets} == {("day", "clear")}
    assert all((s.layout == render_street(i, (32, 64)).layout).all() for i, s in enumerate(streets))


def test_night_is_darker_than_day():
    brightness = {time: [] for time in TIMES}
    for i in range(60):
        street = render_street(i, (32, 64))
        brightness[street.choices.time].append(street.photograph.mean())
    assert np.mean(brightness["night"]) < np.mean(brightness["dusk"]) < np.mean(brightness["day"])


@pytest.mark.parametrize("index", range(6))  # of all hours
def test_a_scene_at_another_hour(index):
    own = render_street(index, (32, 64))
    others = {time: render_street(index, (32, 64), time=time) for time in TIMES}
    assert (others[own.choices.time].photograph == own.photograph).all()
    for time, other in others.items():
        assert (other.layout == own.layout).all() and other.choices == own.choices._replace(time=time)


@pytest.mark.quick
def test_hidden_choices_are_read_off_photographs():
    """Hours even off brighter or darker, noisy ones. Of the cars, most: the largest is not always the one drawn last."""
    rng, hours, cars = np.random.default_rng(0), [], []
    for i in range(40):
        street = render_street(i, (64, 128))
        references = {time: render_street(i, (64, 128), time=time).photograph for time in TIMES}
        for time, photograph in references.items():
            disturbed = photograph * rng.uniform(0.85, 1.15) + rng.normal(0, 30, photograph.shape)
            hours.append(shown(np.clip(disturbed, 0, 255).astype(np.uint8), street, references).time == time)
        found = shown(street.photograph, street, references).car
        cars += [found == street.choices.car_colors[-1]] if found else []
    assert np.mean(hours) > 0.95 and len(cars) > 20 and np.mean(cars) > 0.6
