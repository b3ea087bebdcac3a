"""Against the original UPerNet with the same weights: `record_segmenters.py` has recorded what that makes of three images."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from crn_jax.errors import UserError
from crn_jax.scores import upernet
from crn_jax.scores.metrics import confusion, pixels_by_class, scores_of_pixels
from crn_jax.scores.residual import folded
from tests.support.named_weights import image, named_weights
from tests.support.recorded_logits import check_classes, check_logits, photograph

SIZES = (40, 56), (33, 47)
SHORTER_SIDES = (48, 64)


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    return dict(np.load(Path(__file__).parent / "data" / "upernet_reference.npz"))


@pytest.fixture(scope="module")
def drawn() -> list[dict[str, np.ndarray]]:
    """The tensors of the encoder's file and of the decoder's."""
    return [named_weights(shapes) for shapes in upernet.tensor_shapes()]


@pytest.fixture(scope="module")
def networks(drawn, tmp_path_factory) -> dict[str, upernet.UPerNet]:
    """Both generations. The first norm of 2018 has seen responses that are some 60 times as large."""
    folder, paths = tmp_path_factory.mktemp("upernet"), []
    for part, tensors in zip(("encoder", "decoder"), drawn):
        paths.append(folder / f"{part}_epoch_50.safetensors")
        safetensors.numpy.save_file(tensors, paths[-1])
    of_2019 = upernet.load_upernet(*paths)
    older = drawn[0] | {"bn1.running_var": 3600 * drawn[0]["bn1.running_var"]}
    preparation = upernet.preparation_of(older["conv1.weight"], older["bn1.running_var"])
    first = folded(older, upernet.ENCODER[:1], "encoder", "UPerNet101")
    return {"2019": of_2019, "2018": upernet.UPerNet(of_2019.params | first, preparation)}


@pytest.mark.quick
def test_images_are_prepared_as_by_the_program_of_the_generation(networks, recorded):
    assert networks["2019"].preparation is upernet.OF_2019 and networks["2018"].preparation is upernet.OF_2018
    for year, (_, preparation) in networks.items():
        for number, size in enumerate(SIZES):
            found = list(upernet.prepared_at_each_size(preparation, image(number, *size)[None]))
            for side, x in zip(preparation.shorter_sides, found, strict=True):
                assert x.shape[1:3] == tuple(recorded[f"size{year}_{number}_{side}"])
                # OpenCV interpolates with weights of 11 bits, so a few pixels differ by one of 255.
                tolerance = 1e-5 if year == "2019" else 1.01
                np.testing.assert_allclose(x[0, 5::97, 7::89], recorded[f"prepared{year}_{number}_{side}"], atol=tolerance)


def check(network: upernet.UPerNet, recorded: dict[str, np.ndarray], number: int, pixels: np.ndarray) -> None:
    small = network.preparation._replace(shorter_sides=SHORTER_SIDES)
    seen = list(upernet.prepared_at_each_size(small, pixels[None]))
    check_logits(np.asarray(upernet.coarse_logits(network.params, seen[0]))[0, ..., ::11], recorded[f"coarse{number}"])
    averaged = sum(np.asarray(upernet.probabilities(network.params, pixels[None], x))[0] / len(seen) for x in seen)
    np.testing.assert_allclose(averaged[::3, ::5, ::13], recorded[f"some{number}"], atol=1e-5)
    found = upernet.upernet_segment(network._replace(preparation=small), pixels[None])[0]
    check_classes(found, recorded[f"classes{number}"], averaged, margin=1e-4)


def test_logits_are_those_of_the_original(networks, recorded):
    check(networks["2019"], recorded, 0, image(0, *SIZES[0]))


def test_a_photographs_logits_are_those_of_the_original(networks, recorded, shared_data):
    check(networks["2019"], recorded, 2, photograph(shared_data))


def test_logits_of_the_older_generation_are_those_of_the_original(networks, recorded):
    found = np.asarray(upernet.coarse_logits(networks["2018"].params, recorded["seen2018"][None]))
    check_logits(found[0, ..., ::11], recorded["coarse2018"])


def test_scores_are_those_of_the_originals_program(recorded):
    """A class that occurs nowhere counts as 0 in the mean. Void is left out."""
    label, predicted = recorded["labels"]
    counted = pixels_by_class(confusion(np.where(label < 0, 150, label), predicted, 151))
    np.testing.assert_allclose(scores_of_pixels(counted, mean_over="all"), recorded["scores"], rtol=1e-6)
    assert scores_of_pixels(counted).miou > recorded["scores"][0]


def test_the_sizes_are_multiples_of_32_that_keep_the_shape():
    assert upernet.network_size((256, 256), 450) == (480, 480)
    assert upernet.network_size((480, 640), 450) == (480, 608)
    assert upernet.network_size((100, 1000), 450) == (128, 1024)  # the longer side is at most 1000
    assert upernet.network_size((8, 8), 300) == (320, 320)


def test_prefixes_are_left_out_and_files_of_other_networks_are_refused(drawn, networks, tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match=r"none\.pth: there is no such file\. Fetch encoder_epoch_50\.pth from http://sceneparsing"
    ):
        upernet.load_upernet(tmp_path / "none.pth", tmp_path / "none.pth")
    encoder, decoder = drawn

    def load(**parts: dict[str, np.ndarray]) -> upernet.UPerNet:
        files = {"encoder": encoder, "decoder": decoder} | parts
        monkeypatch.setattr(upernet, "read_weights", lambda path, *_: files[path])
        return upernet.load_upernet("encoder", "decoder")

    wrapped = load(encoder={f"module.{name}": tensor for name, tensor in encoder.items()})
    assert wrapped.params.keys() == networks["2019"].params.keys() and wrapped.preparation is upernet.OF_2019
    with pytest.raises(UserError, match=r"decoder: .* UPerNet101's decoder .*ppm_conv\.0\.0\.weight is missing"):
        load(decoder=encoder)
    lite = decoder | {"ppm_last_conv.0.weight": np.zeros((256, 4096, 3, 3), np.float32)}
    with pytest.raises(UserError, match=r"ppm_last_conv\.0\.weight is \(256, 4096, 3, 3\), expected \(512, 4096, 3, 3\)"):
        load(decoder=lite)
    of_50 = {name: tensor for name, tensor in encoder.items() if not name.startswith("layer3.22")}
    with pytest.raises(UserError, match=r"encoder: .*layer3\.22\.conv1\.weight is missing"):
        load(encoder=of_50)
