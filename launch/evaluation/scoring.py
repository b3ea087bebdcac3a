"""Measures the scores of launch.evaluate image by image, and summarizes them over all images, with intervals."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from crn_jax.errors import UserError
from crn_jax.evaluation import DISTANCE_WEIGHTS
from crn_jax.losses import layer_terms
from crn_jax.scores.frechet import NEIGHBOURS, frechet_distance, kernel_distance, precision_recall, published_kernel_distance
from crn_jax.scores.inception import clean_input, inception_features, inception_trunk
from crn_jax.scores.lpips import lpips
from crn_jax.scores.metrics import MeanOver, class_iou, confusion, pixels_by_class, psnr, scores_of_pixels, ssim
from crn_jax.scores.statistics import bootstrap
from crn_jax.sharding import over_local_devices
from crn_jax.vgg import vgg19_features
from crn_jax.vgg_layers import TAPS
from launch.evaluation.methods import Batch
from launch.evaluation.protocols import Conventions, Seen, features_key


class Score(NamedTuple):
    """The description of a score. `better` is "higher", "lower", or None if neither is better."""

    key: str
    title: str
    unit: str
    better: str | None
    about: str


SCORES = (
    Score("miou", "mIoU", "%", "higher", "Intersection over union of the segmenter's classes and the layout's, without void; "
          "the mean over the classes that occur in either"),
    Score("accuracy", "pixel accuracy", "%", "higher", "Share of pixels where the segmenter sees the layout's class, "
          "without void"),
    Score("miou_void", "mIoU, void counted", "%", "higher", "mIoU, where any class seen in void pixels of the "
          "layout counts as wrong"),
    Score("accuracy_void", "accuracy, void counted", "%", "higher", "Pixel accuracy, where void pixels of the layout count as "
          "wrong unless seen as void; SPADE published this accuracy"),
    Score("fid", "FID", "", "lower", "Fréchet distance of Inception-V3 features (the 2015 graph, 299x299), resized as "
          "pytorch-fid does: bilinear, which leaves pixels out"),
    Score("fid_clean", "FID, clean-fid", "", "lower", "The same distance, resized as clean-fid does: bicubic and antialiased"),
    Score("kid", "KID x 1000", "", "lower", "Kernel distance of Inception-V3 features, unbiased for pairs, with its standard "
          "deviation"),
    Score("kid_published", "KID x 1000, as published", "", "lower", "The usual estimator (Bińkowski et al. 2018), which keeps "
          "the kernel between an image and its own photograph"),
    Score("precision", "precision", "%", "higher", "Images whose Inception-V3 features lie among the photographs' "
          "(Kynkäänniemi et al. 2019, with 3 neighbours)"),
    Score("recall", "recall", "%", "higher", "Photographs whose Inception-V3 features lie among the images'"),
    Score("vgg_frechet", "Fréchet, VGG-19", "", "lower", "Fréchet distance of conv5_2 features, averaged over each image; "
          "this is not FID"),
    Score("distance", "perceptual distance", "", "lower", "The paper's loss, Eq. 1, with the fixed weights of the "
          "authors' 256p program, measured on 8-bit images"),
    Score("class_distance", "perceptual distance, chosen classes", "", "lower", "The same on the pixels of the classes that "
          "--classes names, the mean over the images that have them"),
    Score("lpips", "LPIPS", "", "lower", "Learned perceptual distance (Zhang et al. 2018), version 0.1"),
    Score("psnr", "PSNR", "dB", "higher", "Peak signal-to-noise ratio, the mean over images"),
    Score("ssim", "SSIM", "", "higher", "Structural similarity (Wang et al. 2004), the mean over images"),
    Score("between", "between images", "", None, "Mean perceptual distance between the images of a collection"),
    Score("between_pixels", "between images, pixels", "", None, "Mean absolute difference between the images of a "
          "collection, from 0 to 255"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Judges:
    """The networks that judge images. Those that are not given are None."""

    vgg_params: dict
    inception_params: dict | None = None
    lpips_params: dict | None = None
    segmenter: Callable[[str, Sequence[str], np.ndarray], np.ndarray] | None = None
    """A function (method, names of the examples, images) -> class ids `[B, H, W]` (see launch/evaluation/open_segmenter.py)."""
    classes: tuple[int, ...] = ()
    """The classes on whose pixels the distance is measured once more."""
    conventions: Conventions | None = None
    """The protocols by which the images are measured, too. They need a segmenter that takes images of their sizes."""

    @functools.cached_property
    def _perceived(self) -> Callable:
        return over_local_devices(perceived)

    @functools.cached_property
    def _within(self) -> Callable:
        return over_local_devices(_within)

    @functools.cached_property
    def _inception(self) -> Callable:
        return over_local_devices(_inception)

    @functools.cached_property
    def _trunk(self) -> Callable:
        return over_local_devices(jax.jit(inception_trunk))

    @functools.cached_property
    def _lpips(self) -> Callable:
        return over_local_devices(_lpips)

    @jax.default_matmul_precision("highest")  # by default GPUs round to 10 bits, TPUs to 7
    def measure(
        self, method: str, batch: Batch, images: np.ndarray, num_classes: int, as_made: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Compares images uint8 `[B, H, W, 3]` with a batch's photographs and layouts.

        `as_made` are the same images at their own size, which protocols see. None means that it is the data's size.

        Returns:
          Arrays with one row for each image: the `terms` `[B, 6]` of the perceptual distance, the `features` of Inception-V3
          or else of VGG-19, `psnr` in dB and `ssim`. With their networks also `lpips`, and `confusion` `[B, c, c]` in pixels.
          With `classes` also `class_terms` `[B, 6]` on their pixels, NaN where there are none. With Inception-V3 also
          `clean_features`, and with `conventions` what `Conventions.measure` returns.
        """
        terms, features = self._perceived(self.vgg_params, batch.photograph, images)
        measured = {"terms": np.asarray(terms, np.float64), "features": np.asarray(features)}
        if self.classes:
            inside = np.isin(batch.layout, self.classes)
            measured["class_terms"] = np.asarray(self._within(self.vgg_params, batch.photograph, images, inside), np.float64)
        pairs = list(zip(images, batch.photograph))
        measured |= {"psnr": np.array([psnr(*pair) for pair in pairs]), "ssim": np.array([ssim(*pair) for pair in pairs])}
        if self.inception_params is not None:
            measured["features"] = np.asarray(self._inception(self.inception_params, images))
            measured["clean_features"] = np.asarray(self._trunk(self.inception_params, clean_input(images)))
        if self.lpips_params is not None:
            distances = self._lpips(self.lpips_params, images, batch.photograph)
            measured["lpips"] = np.asarray(distances, np.float64)
        answers = self.segmented(method, batch.names, images)
        if answers is not None:
            measured["confusion"] = np.array([confusion(*pair, num_classes) for pair in zip(batch.layout, answers)])
        if self.conventions and answers is not None:
            inception = None if self.inception_params is None else measured["features"]
            known = {images.shape[1:3]: Seen(answers, inception)}
            made, see = images if as_made is None else as_made, functools.partial(self._seen, method, batch.names)
            measured |= self.conventions.measure(method, batch, made, known, see)
        return measured

    def _seen(self, method: str, names: Sequence[str], images: np.ndarray) -> Seen:
        classes, params = self.segmented(method, names, images), self.inception_params
        assert classes is not None  # `conventions` come with a segmenter
        return Seen(classes, None if params is None else np.asarray(self._inception(params, images)))

    @jax.default_matmul_precision("highest")
    def segmented(self, method: str, names: Sequence[str], images: np.ndarray) -> np.ndarray | None:
        """Returns the segmenter's class ids `[B, H, W]`, or None without a segmenter."""
        return self.segmenter(method, names, images) if self.segmenter else None

    def check(self, size: tuple[int, int]) -> None:
        """Raises UserError if images of this height and width are too small for one of the scores."""
        image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
        try:
            if self.lpips_params is not None:
                jax.eval_shape(lpips, self.lpips_params, image, image)
            ssim(*np.zeros((2, *size, 3), np.uint8))
        except ValueError as error:
            raise UserError(str(error)) from error


@jax.jit
def perceived(vgg_params: dict, photograph: jax.Array, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the terms `[B, 6]` of Eq. 1, and conv5_2 of each image, averaged over its pixels, `[B, 512]`."""
    features = vgg19_features(vgg_params, jnp.concatenate([photograph, image]).astype(jnp.float32))
    differences = [jnp.abs(jnp.subtract(*jnp.split(features[tap], 2))) for tap in TAPS]
    return jnp.stack([d.mean((1, 2, 3)) for d in differences], -1), features["conv5_2"][len(image) :].mean((1, 2))


@jax.jit
def _within(vgg_params: dict, photograph: jax.Array, image: jax.Array, inside: jax.Array) -> jax.Array:
    """Returns the terms `[B, 6]` of Eq. 1 on the pixels that `inside` `[B, H, W]` marks.

    They are means over these pixels. In a deep layer, a pixel counts by the share of marked pixels in its place.
    """
    masks = inside[..., None].astype(jnp.float32)
    terms = layer_terms(vgg_params, photograph, image[:, None].astype(jnp.float32), masks)[:, 0, 0]
    return terms / masks.mean((1, 2))


@jax.jit
def _inception(params: dict, images: jax.Array) -> jax.Array:
    return inception_features(params, images.astype(jnp.float32))


@jax.jit
def _lpips(params: dict, images: jax.Array, photograph: jax.Array) -> jax.Array:
    return lpips(params, images.astype(jnp.float32), photograph.astype(jnp.float32))


class Tally:
    """The measurements of one method, image by image.

    It keeps 10 to 50 kB for each image, by the scores that are asked for, and not the image. Of the confusion matrices it keeps
    the sum alone, and for each image what scores need of them, because matrices of 183 classes would fill the memory.
    """

    def __init__(self, parts: Sequence[dict[str, np.ndarray]] = (), confusion: np.ndarray | None = None):
        self._parts = list(parts)
        self.confusion = confusion
        """The sum of the confusion matrices in pixels, or None without a segmenter."""

    def add(self, measured: dict[str, np.ndarray], count: int) -> None:
        """Adds the first `count` rows of a batch's measurements."""
        kept = {key: rows[:count] for key, rows in measured.items()}
        if "confusion" in kept:
            matrices = kept.pop("confusion")
            kept["pixels"] = pixels_by_class(matrices)
            self.confusion = matrices.sum(0) + (0 if self.confusion is None else self.confusion)
        self._parts.append(kept)

    def measurements(self) -> dict[str, np.ndarray]:
        """Returns every measurement as it was added, one row for each image."""
        return {key: np.concatenate([part[key] for part in self._parts]) for key in self._parts[0]}

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns every measurement, one row for each image, and the distances that the terms give (Eq. 1)."""
        arrays = self.measurements()
        distances = {"distance": "terms", "class_distance": "class_terms"}
        return arrays | {key: arrays[terms] @ DISTANCE_WEIGHTS for key, terms in distances.items() if terms in arrays}


AVERAGED = ("distance", "class_distance", "lpips", "psnr", "ssim", "between", "between_pixels")
"""The keys of scores that are means over images."""


def summary(
    arrays: dict[str, np.ndarray], real: dict[str, np.ndarray], inception: bool, confusion: np.ndarray | None = None
) -> dict[str, Any]:
    """Summarizes a method's measurements for evaluation.json.

    The Fréchet distance has no interval: it is biased by the number of images, and a resample has fewer different images.

    Args:
      arrays: A method's measurements, as `Tally.arrays` returns them.
      real: The measurements of the photographs.
      inception: Whether the features are Inception-V3's, so that FID and KID are defined.
      confusion: The sum of the method's confusion matrices, if there is a segmenter.

    Returns:
      `scores` by key, in the unit of `SCORES`; `terms` by layer; `class_iou` from 0 to 1; `confusion` in pixels; and
      `per_image` scores. A score is a `value`, with `low` and `high`, its 95% bootstrap interval over images, or with `std`.
    """
    images = {key: arrays[key] for key in AVERAGED if key in arrays}
    scores = means(images)
    pair, count = (arrays["features"], real["features"]), len(real["features"])
    if count > 1:
        scores["fid" if inception else "vgg_frechet"] = {"value": frechet_distance(*pair)}
    if count > 1 and inception:
        scores |= inception_scores(arrays, real)
    result: dict[str, Any] = {
        "scores": scores,
        "terms": dict(zip(TAPS, arrays["terms"].mean(0).tolist())),
        "class_iou": None,
        "confusion": None,
    }
    per_image = {key: values.tolist() for key, values in images.items()}
    if confusion is not None:
        for void, suffix in ((False, ""), (True, "_void")):
            for key in ("miou", "accuracy"):
                scores[key + suffix] = _with_interval(percent_of(key, count_void=void), arrays["pixels"])
        result |= {"class_iou": class_iou(confusion).tolist(), "confusion": confusion.tolist()}
        per_image["accuracy"] = percent_of("accuracy")(arrays["pixels"]).tolist()
    return result | {"per_image": per_image}


def means(images: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Averages the scores of single images, by key. Images that have none of the classes of `class_distance` do not count."""
    known = {key: values[np.isfinite(values)] for key, values in images.items() if key == "class_distance"}
    measured = {key: values for key, values in (images | known).items() if values.size}
    return {key: _with_interval(lambda means: means, values) for key, values in measured.items()}


def inception_scores(arrays: dict[str, np.ndarray], real: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Returns the scores besides FID that Inception-V3's features give, of two images or more."""
    pair, count = (arrays["features"], real["features"]), len(real["features"])
    value, deviation = kernel_distance(*pair)
    # The deviation is taken over halves, which are too small with fewer than four images.
    scores = {"kid": {"value": 1000 * value} | ({"std": 1000 * deviation} if count >= 4 else {})}
    scores["kid_published"] = {"value": 1000 * published_kernel_distance(*pair)}
    scores["fid_clean"] = {"value": frechet_distance(arrays["clean_features"], real["clean_features"])}
    if count > NEIGHBOURS:
        precision, recall = precision_recall(*pair, NEIGHBOURS)
        scores |= {"precision": {"value": 100 * precision}, "recall": {"value": 100 * recall}}
    return scores


def by_protocol(
    conventions: Conventions, arrays: dict[str, np.ndarray], real: dict[str, np.ndarray]
) -> dict[str, dict[str, dict[str, float]]]:
    """Returns a method's `miou`, `accuracy` and `fid` by each protocol. The unit of the first two is percent."""
    found = {}
    for protocol in conventions.protocols:
        view = conventions.view(protocol)
        pixels, key = arrays[view.key], features_key(view.size)
        # Void never counts in mIoU: the judges' own programs leave it out, and everyone took mIoU from there.
        scores = {
            "miou": _with_interval(percent_of("miou", mean_over=protocol.mean_over), pixels),
            "accuracy": _with_interval(percent_of("accuracy", count_void=protocol.counts_void), pixels),
        }
        if protocol.fid and key in arrays and len(real[key]) > 1:
            scores["fid"] = {"value": frechet_distance(arrays[key], real[key])}
        found[protocol.name] = scores
    return found


def percent_of(key: str, count_void: bool = False, mean_over: MeanOver = "occurring") -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function from pixels by class `[..., 4, c]` to `miou` or `accuracy` in percent."""
    return lambda pixels: 100 * getattr(scores_of_pixels(pixels, count_void, mean_over), key)


def _with_interval(statistic: Callable[[np.ndarray], np.ndarray], samples: np.ndarray) -> dict[str, float]:
    low, high = bootstrap(statistic, samples)
    return {"value": float(statistic(samples.mean(0, keepdims=True))[0]), "low": low, "high": high}
