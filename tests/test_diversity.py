"""Collections of k images: what they are together, and how that is shown."""

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from crn_jax import vgg_weights
from crn_jax.cascade import Cascade, CascadeConfig
from crn_jax.data.labels.published import CITYSCAPES
from crn_jax.diversity import assemble, pairwise_terms
from crn_jax.errors import UserError
from crn_jax.evaluation import DISTANCE_WEIGHTS, Collection, make_eval_step
from crn_jax.lambdas import LambdaConfig
from crn_jax.losses import Perception
from crn_jax.objective import Objective
from crn_jax.train import OptimizerConfig, init_state
from crn_jax.vgg_layers import TAPS
from launch.common.contact_sheet import grid, win_map
from launch.synthesize import Arguments, choice_of
from launch.training.validation import diversity_of
from tests.support import reference

pytestmark = pytest.mark.usefixtures("narrow_vgg19")


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(seed=st.integers(0, 1 << 30), k=st.integers(1, 4))
def test_each_class_is_taken_from_its_image(seed, k):
    rng = np.random.default_rng(seed)
    images, layout = rng.integers(0, 256, (2, k, 3, 4, 3)).astype(np.uint8), rng.integers(0, 5, (2, 3, 4)).astype(np.uint8)
    choice = rng.integers(0, k, (2, 5))
    virtual = np.asarray(assemble(images, layout, choice))
    assert virtual.shape == (2, 3, 4, 3) and virtual.dtype == np.uint8
    for b, y, x in np.ndindex(layout.shape):
        assert (virtual[b, y, x] == images[b, choice[b, layout[b, y, x]], y, x]).all()
    np.testing.assert_array_equal(assemble(images[1], layout[1], choice[1]), virtual[1])


def test_distances_within_a_collection():
    params = vgg_weights.random_vgg19(2)
    images = np.random.default_rng(0).uniform(0, 255, (2, 3, 16, 16, 3))
    images[1] = images[1, :1]  # has collapsed
    got = np.asarray(jax.jit(pairwise_terms, static_argnums=2)(params, images.astype(np.float32), Perception()))
    features = reference.vgg19(params, images[0])
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = [np.mean([np.abs(features[tap][u] - features[tap][v]).mean() for u, v in pairs]) for tap in TAPS]
    np.testing.assert_allclose(got[0], expected, rtol=1e-4)
    np.testing.assert_allclose(got[1], 0, atol=1e-4)


def test_an_evaluation_fits_together():
    """The terms are the images', the choice is the least of the classes', and the virtual image is made by it."""
    config = CascadeConfig(num_classes=4, widths=(6, 6), base=(8, 8), num_images=3)
    objective = Objective(config, LambdaConfig(), OptimizerConfig(), "average", 1)
    rng = np.random.default_rng(0)
    batch = {
        "layout": rng.integers(0, 3, (2, *config.size)).astype(np.uint8),  # the last class is absent
        "photograph": rng.integers(0, 256, (2, *config.size, 3)).astype(np.uint8),
    }
    params, vgg = init_state(objective, 0).params, vgg_weights.random_vgg19(0)
    params["to_rgb"]["bias"] += np.repeat(np.array([[0, 0.2, 0.4]], np.float32), 3, 0).reshape(-1)
    terms, images, collection = make_eval_step(config, objective.perception)(params, vgg, batch)
    assert collection.present.tolist() == [[True, True, True, False]] * 2
    by_class = np.asarray(collection.class_terms) @ DISTANCE_WEIGHTS
    np.testing.assert_array_equal(collection.choice, by_class.argmin(1))
    np.testing.assert_array_equal(collection.assembled, assemble(images, batch["layout"], collection.choice))
    exact = jax.jit(Cascade(config).apply)({"params": params}, np.eye(4, dtype=np.float32)[batch["layout"]])
    virtual = reference.vgg19(vgg, np.float64(assemble(exact, batch["layout"], collection.choice)))
    real = reference.vgg19(vgg, np.float64(batch["photograph"]))
    expected = np.stack([np.abs(real[tap] - virtual[tap]).mean((1, 2, 3)) for tap in TAPS], -1)
    np.testing.assert_allclose(collection.assembled_terms, expected, rtol=1e-4)
    for u in range(3):  # whole images
        fake = reference.vgg19(vgg, np.float64(exact[:, u]))
        expected = np.stack([np.abs(real[tap] - fake[tap]).mean((1, 2, 3)) for tap in TAPS], -1)
        np.testing.assert_allclose(terms[:, u], expected, rtol=1e-4)


def collection() -> Collection:
    """Two layouts, k = 2, three classes; the second layout lacks class 1, none has class 2."""
    class_terms = np.zeros((2, 2, 3, 6))
    class_terms[0, :, :, 0] = [[1, 4, 0], [2, 3, 0]]
    class_terms[1, :, :, 0] = [[5, 0, 0], [7, 0, 0]]
    pairwise = np.array([[2.0, 0, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0]])
    present = np.array([[True, True, False], [True, False, False]])
    assembled_terms = np.array([[4.5, 0, 0, 0, 0, 0], [5.5, 0, 0, 0, 0, 0]])
    return Collection(class_terms, present, np.array([[0, 1, 0], [0, 0, 0]]), None, assembled_terms, pairwise)


def test_a_validation_sums_up_its_collections():
    diversity = diversity_of(collection(), {})
    assert diversity[:4] == (5.0, (1 + 3 + 5) / 2, 3.0, 3.0)
    np.testing.assert_array_equal(diversity.wins, [[1, 0, np.nan], [0, 1, np.nan]])
    assert diversity.line()["never_best"] == 0 and diversity.line()["wins"] == [[1.0, 0.0, None], [0.0, 1.0, None]]
    never = diversity._replace(wins=np.array([[1, 1, np.nan], [0, 0, np.nan]]))
    assert never.line()["never_best"] == 1


def test_the_map_of_wins_shows_classes_that_were_there():
    wins = np.full((3, CITYSCAPES.num_classes), np.nan)
    wins[:, 0], wins[:, 13] = [1, 0, 0], [0.5, 0.25, 0.25]
    picture = np.asarray(win_map(wins, CITYSCAPES))
    assert picture.shape[0] == (2 + 2) * 22 + 4
    blue = (picture == (0, 70, 140)).all(-1)
    assert blue.sum() > 500 and set(np.nonzero(blue)[0].tolist()) <= set(range(2 * 22, 3 * 22))  # all in the road's line


@pytest.mark.parametrize(("k", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (6, 2, 3), (9, 3, 3)])
def test_a_grid_holds_the_images_in_order(k, rows, columns):
    images = np.random.default_rng(0).integers(0, 256, (k, 5, 7, 3)).astype(np.uint8)
    picture = grid(images)
    assert picture.shape == (rows * 9 - 4, columns * 11 - 4, 3)
    for u in range(k):
        top, left = u // columns * 9, u % columns * 11
        np.testing.assert_array_equal(picture[top : top + 5, left : left + 7], images[u])


def choose(k=4, **options):
    return choice_of(Arguments(run=None, layouts=(), **options), CITYSCAPES, k)


def test_classes_are_picked_by_name():
    assert choose() is None
    assert (choose(index=2) == 2).all()
    picked = choose(pick="car=3, sky=1", index=2)
    expected = {"car": 3, "sky": 1}
    assert picked.tolist() == [expected.get(name, 2) for name in CITYSCAPES.classes]
    assert choose(pick="car=3")[CITYSCAPES.classes.index("road")] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pick": "cat=1"}, "--pick: there is no class 'cat'. Did you mean 'car'?"),
        ({"pick": "car"}, "--pick wants CLASS=IMAGE, such as car=1, got 'car'"),
        ({"pick": "car=1,car=2"}, "--pick names car twice"),
        ({"pick": ""}, "there is no class ''"),
        ({"pick": "car=4"}, r"car=4: this run makes 4 image\(s\) of a layout, 0 to 3"),
        ({"index": -1}, "--index=-1: this run makes"),
        ({"index": 1, "grid": True}, "--grid shows all images"),
    ],
)
def test_picks_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        choose(**options)
