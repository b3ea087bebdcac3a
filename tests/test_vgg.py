import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crn_jax import vgg_weights
from crn_jax.vgg import TAPS, vgg19_features
from tests.support import reference


@pytest.mark.parametrize("which", ["simple", "diversity"])
def test_taps_equal_the_authors(which, request, imagenet_vgg19):
    run = request.getfixturevalue(f"{which}_run")
    features = vgg19_features(imagenet_vgg19, jnp.float32(run.images[:1]))
    assert tuple(features) == TAPS
    for name in TAPS:
        expected = run.arrays[f"vgg_{name}"]
        assert np.abs(features[name] - expected).max() <= 1e-4 * np.abs(expected).max(), name


@pytest.mark.parametrize("pooling", ["average", "max"])
@pytest.mark.parametrize("size", [(16, 16), (17, 19)])
def test_features_equal_numpy(pooling, size):
    params = vgg_weights.random_vgg19(1)
    images = np.random.default_rng(0).uniform(0, 255, (1, *size, 3)).astype(np.float32)
    features = jax.jit(vgg19_features, static_argnums=2)(params, images, pooling)
    for name, expected in reference.vgg19(params, images.astype(np.float64), pooling).items():
        np.testing.assert_allclose(features[name], expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=name)


def test_bfloat16_features_keep_the_image_exact():
    params = vgg_weights.random_vgg19(1)
    images = np.random.default_rng(0).uniform(0, 255, (1, 16, 16, 3)).astype(np.float32)
    features = jax.eval_shape(lambda p, x: vgg19_features(p, x, dtype="bfloat16"), params, images)
    assert features["input"].dtype == np.float32
    assert {str(features[name].dtype) for name in TAPS[1:]} == {"bfloat16"}
