"""The named experiments, recipes and ablations.

`python -m launch.train NAME [--field value ...]` runs an experiment or a recipe, and `launch.train --help` lists them. The
comment above each one gives its command, its cost, and the result to expect, which is measured unless it says "not yet".
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from crn_jax.ablation import Ablation, Variant
from crn_jax.data.labels.published import CAMVID, CITYSCAPES, LABEL_SPACES
from crn_jax.data.sources import DataConfig
from crn_jax.experiment import BaselineExperiment, Experiment, GANExperiment, RunConfig, SegmenterExperiment, Training
from crn_jax.growth import Recipe
from crn_jax.settings import (
    PAPER_WIDTHS,
    RELEASED_WEIGHTS,
    CascadeConfig,
    EncoderDecoderConfig,
    FullResolutionConfig,
    GANConfig,
    GANLossConfig,
    LambdaConfig,
    LossConfig,
    OptimizerConfig,
    SegmenterConfig,
)
from crn_jax.vgg_layers import TAPS
from crn_jax.vgg_weights import VGGConfig


def _fields(experiment: Training, *names: str) -> dict[str, Any]:
    """Returns these fields of an experiment, which one of another kind takes over."""
    return {name: getattr(experiment, name) for name in names}


# Procedural streets at 64x128. The demo shows the whole path and needs no data.
#   python -m launch.train demo
# Expect: 500 steps in about three minutes on two CPU cores. Images show surfaces, trees, cars and people in their places, but
# softly. The held-out distance is 100 with random VGG-19 weights. They define the distance, so do not compare it with others.
demo = Experiment(
    name="demo",
    about="A first look: procedural streets at 64x128, trained in minutes on a CPU.",
    data=DataConfig("streets", num_scenes=250, clear_days=True),
    cascade=CascadeConfig(CITYSCAPES.num_classes, widths=(128, 128, 128, 96, 48)),
    vgg=VGGConfig(allow_random=True),
    lambdas=LambdaConfig(rescale_epoch=1),
    optimizer=OptimizerConfig(learning_rate=5e-4),
    epochs=2,
    run=RunConfig(validate_every=250, validation_examples=16, checkpoint_every=250),
)

# The loss of a collection in the authors' program: the best image for each class, and a thousandth of the mean over all images.
COLLECTION = LossConfig(best_per="class", mean_share=0.001)

# Procedural streets with hidden choices (time of day, weather, colours of cars). The cascade synthesizes six images for each
# layout, and the loss takes the best one for each class.
#   python -m launch.train streets_diverse
# Expect: 2,000 steps of 0.6 s each on two quiet cores. Different images show day, dusk, night and haze. With ImageNet's VGG-19
# weights, the held-out distance is 188 (206 for a cascade with one image).
streets_diverse = dataclasses.replace(
    demo,
    name="streets_diverse",
    about="Procedural streets at 64x128 with hidden choices: six images for each layout.",
    data=DataConfig("streets", num_scenes=500),
    cascade=dataclasses.replace(demo.cascade, num_images=6),
    loss=COLLECTION,
    epochs=4,
    run=RunConfig(validate_every=500, validation_examples=48, checkpoint_every=250),
)

# Procedural streets at 256x512, by a narrow cascade, with the weights λ of the authors' program for that size. Growth is
# compared with this experiment.
#   python -m launch.train streets_256x512
# Expect: a held-out distance of 184 (the mean photograph has 212) after 1,000 steps of 1.8 s on two cores.
streets_256x512 = dataclasses.replace(
    demo,
    name="streets_256x512",
    about="Procedural streets at 256x512 by a narrow cascade, trained on a CPU.",
    data=DataConfig("streets", num_scenes=500, clear_days=True),
    cascade=dataclasses.replace(demo.cascade, widths=(*demo.cascade.widths, 32, 16)),
    lambdas=LambdaConfig(initial=RELEASED_WEIGHTS["cityscapes_256p"], rescale_epoch=None),
    run=RunConfig(validate_every=50, validation_examples=12, checkpoint_every=50),
)

# Detailed streets at 128x256 in six moods, by a cascade of six images whose parameters fit into 5 MB in float16. The mood is a
# choice for the whole image, so the best whole image counts. The recipe packaged_streets trains it by stages and is the better
# way: at 64x128, 226 steps of this loss did not yet separate the moods.
#   python -m launch.train packaged_streets
detailed_streets = dataclasses.replace(
    demo,
    name="detailed_streets",
    about="Detailed streets at 128x256: six images for each layout, from noon to night.",
    data=DataConfig("detailed_streets", num_scenes=1000),
    cascade=CascadeConfig(CITYSCAPES.num_classes, widths=(192, 192, 176, 144, 96, 48), num_images=6),
    lambdas=LambdaConfig(initial=RELEASED_WEIGHTS["cityscapes_256p"], rescale_epoch=None),
    loss=LossConfig(mean_share=0.05),
    optimizer=OptimizerConfig(learning_rate=1e-3, ema_decay=0.99),
    epochs=20,
    run=RunConfig(validate_every=250, validation_examples=12, checkpoint_every=25),
)

# CamVid, 367 photographs of 4:3, by a cascade that is narrow enough for a CPU: 0.05 TFLOP for each step. λ is rescaled early,
# because the run is short.
#   python -m launch.train camvid_96x128 --data.root DIR
# Expect: a held-out distance of 184 (the mean photograph has 264) after 8,074 steps of 0.4 s on two cores.
camvid_96x128 = Experiment(
    name="camvid_96x128",
    about="CamVid at 96x128 by a narrow cascade, trained in an hour or two on two CPU cores.",
    data=DataConfig("camvid"),
    cascade=CascadeConfig(CAMVID.num_classes, widths=(256, 256, 256, 256, 128, 64), base=(3, 4)),
    lambdas=LambdaConfig(rescale_epoch=2),
    optimizer=OptimizerConfig(ema_decay=0.999),
    epochs=22,
    run=RunConfig(validate_every=734, checkpoint_every=367),
)

# CamVid at 48x64, for ablations on a CPU: with one core for each training, a step takes 0.15 s. The rate is larger than the
# paper's, for three epochs are few. With conv5_2 tenfold, the paper's rate did better all the same (docs/ablations.md).
#   python -m launch.train camvid_48x64 --data.root DIR
# Expect: a held-out distance of 212 (the mean photograph has 280) after 1,101 steps, in four minutes on one core.
camvid_48x64 = dataclasses.replace(
    camvid_96x128,
    name="camvid_48x64",
    about="CamVid at 48x64 by a narrow cascade: the size at which many trainings are compared on a CPU.",
    cascade=CascadeConfig(CAMVID.num_classes, widths=(256, 256, 256, 128, 64), base=(3, 4)),
    lambdas=LambdaConfig(rescale_epoch=1),
    optimizer=OptimizerConfig(learning_rate=5e-4, ema_decay=0.99),
    epochs=3,
    run=RunConfig(validate_every=183, validation_examples=25, checkpoint_every=367),
)

# The baselines of the paper (section 5) that do without a discriminator, at the size of camvid_96x128. The encoder-decoder has
# about as many parameters as the cascade. The full-resolution network has a quarter of the paper's feature maps.
#   python -m launch.train camvid_image_space --data.root DIR
#   python -m launch.train camvid_encoder_decoder --data.root DIR
#   python -m launch.train camvid_full_resolution --data.root DIR
# Expect: held-out distances of 239, 231 and 247 after 4 epochs (the cascade has 230); a step takes 0.4 to 0.7 s on two cores.
camvid_image_space = dataclasses.replace(
    camvid_96x128,
    name="camvid_image_space",
    about="The cascade of camvid_96x128, trained with the difference of the colours alone, without VGG-19's features.",
    lambdas=LambdaConfig(initial=(1, 0, 0, 0, 0, 0), rescale_epoch=None),
)
camvid_encoder_decoder = BaselineExperiment(
    name="camvid_encoder_decoder",
    about="CamVid at 96x128 by a U-Net, to compare with the cascade of camvid_96x128.",
    baseline=EncoderDecoderConfig(CAMVID.num_classes, camvid_96x128.size, widths=(32, 64, 128, 256, 256)),
    **_fields(camvid_96x128, "data", "lambdas", "optimizer", "epochs", "run"),
)
camvid_full_resolution = dataclasses.replace(
    camvid_encoder_decoder,
    name="camvid_full_resolution",
    about="CamVid at 96x128 by a network without resampling, to compare with the cascade of camvid_96x128.",
    baseline=FullResolutionConfig(CAMVID.num_classes, camvid_96x128.size, maps=64),
)

# The adversarial baselines of the paper: pix2pix, with the published networks and losses, and a GAN with a segmenter, whose
# networks are our reconstruction (train segmenter_camvid first). Adam has the settings of pix2pix. There is no moving average
# of the parameters, as in the paper.
#   python -m launch.train camvid_pix2pix --data.root DIR
#   python -m launch.train camvid_gan_segmentation --data.root DIR --segmenter runs/segmenter_camvid
# Expect: held-out distances of 261 and 328 after 6 epochs, which are few for a GAN (docs/ablations.md).
camvid_pix2pix = GANExperiment(
    name="camvid_pix2pix",
    about="CamVid at 96x128 by pix2pix, to compare with the cascade of camvid_96x128.",
    gan=GANConfig(CAMVID.num_classes, camvid_96x128.size, "pix2pix"),
    **_fields(camvid_96x128, "data", "epochs", "run"),
    optimizer=OptimizerConfig(learning_rate=2e-4, b1=0.5),
)
camvid_gan_segmentation = dataclasses.replace(
    camvid_pix2pix,
    name="camvid_gan_segmentation",
    about="CamVid at 96x128 by a GAN with a segmenter, to compare with the cascade of camvid_96x128.",
    gan=GANConfig(CAMVID.num_classes, camvid_96x128.size, "dcgan"),
    loss=GANLossConfig(l1_weight=0, segmentation_weight=1),
    segmenter="runs/segmenter_camvid",
)

# The paper's widths at 192x256, for a GPU: 2.5 TFLOP for each step.
#   python -m launch.train camvid_192x256 --data.root DIR --cascade.dtype bfloat16
# Expect: 121 steps per second on an H200, and less than held-out distances of 201, 196 and 187 after 10, 20 and 30 epochs (the
# mean photograph has 243), which were reached with --lambdas.conv5_2_factor 10. We have not yet trained it to the end.
camvid_192x256 = dataclasses.replace(
    camvid_96x128,
    name="camvid_192x256",
    about="CamVid at 192x256 by a cascade of the paper's widths, trained on a GPU.",
    cascade=CascadeConfig(CAMVID.num_classes, widths=PAPER_WIDTHS[:7], base=(3, 4)),
    lambdas=LambdaConfig(rescale_epoch=10),
    epochs=100,
)

# The paper's experiment on Cityscapes (2975 photographs): Adam at 1e-4, a batch of 1, λ rescaled at epoch 100 of 200. 595,000
# steps of 6.7 TFLOP. Loss and λ are the paper's, and the last layer of the cascade is that of the authors' program.
# --cascade.variant paper follows the paper in everything; cityscapes_256p_diverse follows the program in everything.
#   python -m launch.train cityscapes_256p --data.root DIR
# Expect: we have not yet trained it; in bfloat16 a step takes 13.7 ms on an H200. The paper's images score 52.4 mIoU and 104.7
# FID (as measured by SPADE's authors).
cityscapes_256p = Experiment(
    name="cityscapes_256p",
    about="Cityscapes at 256x512 by the paper's cascade.",
    data=DataConfig("cityscapes", threads=8),
    cascade=CascadeConfig(CITYSCAPES.num_classes, widths=PAPER_WIDTHS[:7]),
    lambdas=LambdaConfig(rescale_epoch=100),
    optimizer=OptimizerConfig(learning_rate=1e-4),
    batch_size=1,
    epochs=200,
    run=RunConfig(validate_every=2975, checkpoint_every=2975),
)

# ADE20K and COCO-Stuff at the size at which SPADE and OASIS publish their scores. Photographs of every shape are stretched to a
# square, as there. The paper has no experiment on these data. launch.evaluate takes the names to score the images of others.
# The epochs make 606,300 and 709,722 steps, and λ is rescaled after half of them; cityscapes_256p has 595,000 steps.
#   python -m launch.train ade20k_256x256 --data.root DIR
#   python -m launch.train cocostuff_256x256 --data.root DIR
# Expect: we have not yet trained them. A step takes 3.6 TFLOP, where one of cityscapes_256p takes 6.7.
ade20k_256x256 = dataclasses.replace(
    cityscapes_256p,
    name="ade20k_256x256",
    about="ADE20K at 256x256, stretched as by SPADE, by the paper's cascade.",
    data=DataConfig("ade20k", fit="stretch", threads=8),
    cascade=CascadeConfig(LABEL_SPACES["ade20k"].num_classes, widths=PAPER_WIDTHS[:7], base=(4, 4)),
    lambdas=LambdaConfig(rescale_epoch=15),
    epochs=30,
    run=RunConfig(validate_every=20210, checkpoint_every=20210),
)
cocostuff_256x256 = dataclasses.replace(
    ade20k_256x256,
    name="cocostuff_256x256",
    about="COCO-Stuff at 256x256, stretched as by SPADE, by the paper's cascade.",
    data=dataclasses.replace(ade20k_256x256.data, source="cocostuff"),
    cascade=dataclasses.replace(ade20k_256x256.cascade, num_classes=LABEL_SPACES["cocostuff"].num_classes),
    lambdas=LambdaConfig(rescale_epoch=3),
    epochs=6,
    run=RunConfig(validate_every=23658, checkpoint_every=23658),
)

# Nine images for each layout, and weights λ that are fixed from the first step, as in the authors' program for this size.
# A step takes 8.3 TFLOP, and 0.9 TFLOP more because VGG-19 is computed twice.
#   python -m launch.train cityscapes_256p_diverse --data.root DIR
# Expect: we have not yet trained it.
cityscapes_256p_diverse = dataclasses.replace(
    cityscapes_256p,
    name="cityscapes_256p_diverse",
    about="Cityscapes at 256x512 by the paper's cascade: nine images for each layout, the best of which counts for each class.",
    cascade=dataclasses.replace(cityscapes_256p.cascade, num_images=9),
    lambdas=LambdaConfig(initial=RELEASED_WEIGHTS["cityscapes_256p"], rescale_epoch=None),
    loss=COLLECTION,
    remat="images",
)

# Cascades of eight and nine modules, trained from scratch with the weights λ of the authors' programs. Steps of 9.9 and 14.1
# TFLOP. (The authors' models start from the next smaller model, and train for 20 and 5 epochs: see cityscapes_grow_released.)
#   python -m launch.train cityscapes_512p --data.root DIR
#   python -m launch.train cityscapes_1024p --data.root DIR --cascade.dtype bfloat16
# Expect: we have not yet trained them. At 1024p, a CPU needs 6.5 GB in float32, thanks to --remat full. An H200 needs
# 31.9 ms for a step, and 6.1 GB, in bfloat16 with --remat none.
cityscapes_512p = dataclasses.replace(
    cityscapes_256p,
    name="cityscapes_512p",
    about="Cityscapes at 512x1024 by a cascade of eight modules, trained end to end.",
    cascade=CascadeConfig(CITYSCAPES.num_classes, widths=PAPER_WIDTHS[:8]),
    lambdas=LambdaConfig(initial=RELEASED_WEIGHTS["cityscapes_512p"], rescale_epoch=None),
)
cityscapes_1024p = dataclasses.replace(
    cityscapes_512p,
    name="cityscapes_1024p",
    about="Cityscapes at 1024x2048 by a cascade of nine modules, trained end to end.",
    cascade=CascadeConfig(CITYSCAPES.num_classes, widths=PAPER_WIDTHS),
    remat="full",
)

# The baselines of the paper at its size, with its widths where it gives them. The encoder-decoder has 1% more parameters than
# the cascade.
#   python -m launch.ablate paper_cityscapes --data DIR
# Expect: we have not yet trained them.
cityscapes_image_space = dataclasses.replace(
    cityscapes_256p,
    name="cityscapes_image_space",
    about="The cascade of cityscapes_256p, trained with the difference of the colours alone, without VGG-19's features.",
    lambdas=camvid_image_space.lambdas,
)
cityscapes_encoder_decoder = BaselineExperiment(
    name="cityscapes_encoder_decoder",
    about="Cityscapes at 256x512 by a U-Net, to compare with the cascade of cityscapes_256p.",
    baseline=EncoderDecoderConfig(CITYSCAPES.num_classes, cityscapes_256p.size, widths=(96, 192, 384, 768, 1024, 1024)),
    **_fields(cityscapes_256p, "data", "lambdas", "optimizer", "epochs", "run"),
)
cityscapes_full_resolution = dataclasses.replace(
    cityscapes_encoder_decoder,
    name="cityscapes_full_resolution",
    about="Cityscapes at 256x512 by the paper's full-resolution network, to compare with the cascade of cityscapes_256p.",
    baseline=FullResolutionConfig(CITYSCAPES.num_classes, cityscapes_256p.size, maps=256),
)
cityscapes_pix2pix = dataclasses.replace(
    camvid_pix2pix,
    name="cityscapes_pix2pix",
    about="Cityscapes at 256x512 by pix2pix, to compare with the cascade of cityscapes_256p.",
    gan=GANConfig(CITYSCAPES.num_classes, cityscapes_256p.size, "pix2pix"),
    **_fields(cityscapes_256p, "data", "epochs", "run"),
)
cityscapes_gan_segmentation = dataclasses.replace(
    cityscapes_pix2pix,
    name="cityscapes_gan_segmentation",
    about="Cityscapes at 256x512 by a GAN with a segmenter, to compare with the cascade of cityscapes_256p.",
    gan=GANConfig(CITYSCAPES.num_classes, cityscapes_256p.size, "dcgan"),
    loss=camvid_gan_segmentation.loss,
    segmenter="runs/segmenter_cityscapes",
)

# Segmenters, which score the images of cascades of the same size (launch.evaluate --segmenter). 0.06 TFLOP for each step.
#   python -m launch.train segmenter_camvid --data.root DIR
# Expect: a held-out mIoU of 45% and a pixel accuracy of 87% after 2,730 steps of 0.7 s on two cores.
segmenter_camvid = SegmenterExperiment(
    name="segmenter_camvid",
    about="A segmenter of CamVid at 96x128, to score synthesized images with.",
    data=DataConfig("camvid", flip=True),
    segmenter=SegmenterConfig(CAMVID.num_classes, size=camvid_96x128.size),
    optimizer=OptimizerConfig(learning_rate=1e-3, ema_decay=0.99),
    batch_size=4,
    epochs=30,
    run=RunConfig(validate_every=455, validation_examples=101, checkpoint_every=455),
)

#   python -m launch.train segmenter_cityscapes --data.root DIR
# Expect: we have not yet trained it. Published scores come from a DRN-D-105, which is a stronger judge.
segmenter_cityscapes = SegmenterExperiment(
    name="segmenter_cityscapes",
    about="A segmenter of Cityscapes at 256x512, to score synthesized images with.",
    data=DataConfig("cityscapes", flip=True, threads=8),
    segmenter=SegmenterConfig(CITYSCAPES.num_classes, cityscapes_256p.size, widths=(64, 128, 256, 512, 512, 512)),
    optimizer=OptimizerConfig(learning_rate=3e-4, ema_decay=0.999),
    batch_size=8,
    epochs=100,
    run=RunConfig(validate_every=1855, validation_examples=500, checkpoint_every=1855),
)

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        demo,
        streets_diverse,
        streets_256x512,
        detailed_streets,
        camvid_96x128,
        camvid_48x64,
        camvid_192x256,
        cityscapes_256p,
        cityscapes_256p_diverse,
        ade20k_256x256,
        cocostuff_256x256,
        camvid_image_space,
        camvid_encoder_decoder,
        camvid_full_resolution,
        camvid_pix2pix,
        camvid_gan_segmentation,
        cityscapes_image_space,
        cityscapes_encoder_decoder,
        cityscapes_full_resolution,
        cityscapes_pix2pix,
        cityscapes_gan_segmentation,
        cityscapes_512p,
        cityscapes_1024p,
        segmenter_camvid,
        segmenter_cityscapes,
    )
}


_RELEASED = " ".join(f"{weight:.6g}" for weight in RELEASED_WEIGHTS["cityscapes_256p"])


# Recipes of growth: a cascade is trained at one size, and then with one more module at twice that size. Adam starts anew in
# each stage.

_GROWN_512P = "cityscapes_512p --epochs 20"
_GROWN_1024P = "cityscapes_1024p --epochs 5"
_CAMVID_WIDTHS, _STREETS_WIDTHS = "256 256 256 256 128", "128 128 128 96 48"
_COLOURS = (
    "detailed_streets --lambdas.initial 1 0 0 0 0 0 --loss.mean_share 0.2 --run.validate_every 2000 "
    "--run.validation_examples 6 --run.checkpoint_every 100"
)
_SHALLOW = " ".join(f"{weight:.6g}" for weight in (*RELEASED_WEIGHTS["cityscapes_256p"][:4], 0, 0))
_FEATURES = f"detailed_streets --lambdas.initial {_SHALLOW} --run.validate_every 500 --run.checkpoint_every 100"

RECIPES = {
    # python -m launch.train cityscapes_grow --data.root DIR --cascade.dtype bfloat16
    # Expect: we have not yet trained it. The stages have 595,000, 59,500 and 14,875 steps of 6.7, 9.9 and 14.1 TFLOP.
    "cityscapes_grow": Recipe(
        "Cityscapes to 1024x2048 by growth; each stage trains all modules.",
        {"256p": "cityscapes_256p", "512p": _GROWN_512P, "1024p": _GROWN_1024P},
    ),
    # python -m launch.train cityscapes_grow_released --data.root DIR --data.cache DIR
    # Expect: we have not yet trained it. The cache saves time, because the photographs of the two larger stages are made vivid,
    # which takes 45 s for each one at 1024p.
    "cityscapes_grow_released": Recipe(
        "Cityscapes to 1024x2048 by growth, as the authors trained their models: first nine images for each layout, then vivid "
        "photographs, and at 1024x2048 the last two modules alone.",
        {
            "256p": "cityscapes_256p_diverse",
            "512p": f"{_GROWN_512P} --data.vivid",
            "1024p": f"{_GROWN_1024P} --data.vivid --optimizer.freeze module_[0-6]",
        },
    ),
    # python -m launch.train camvid_grow --data.root DIR
    # Expect: held-out distances of 202, 206 and 197 (the mean photograph has 281, 264 and 243) after an hour on two busy cores.
    "camvid_grow": Recipe(
        "CamVid to 192x256 by growth of a narrow cascade, for a CPU.",
        {
            "48x64": f"camvid_96x128 --cascade.widths {_CAMVID_WIDTHS} --epochs 10",
            "96x128": f"camvid_96x128 --cascade.widths {_CAMVID_WIDTHS} 64 --epochs 6",
            "192x256": f"camvid_96x128 --cascade.widths {_CAMVID_WIDTHS} 64 32 --epochs 6",
        },
    ),
    # python -m launch.train streets_grow
    # Expect: a held-out distance of 177.5 after 33 minutes on two cores (streets_256x512 reaches 183 in the same time).
    "streets_grow": Recipe(
        "Procedural streets to 256x512 by growth of a narrow cascade, for a CPU; no data are needed.",
        {
            "64x128": f"streets_256x512 --cascade.widths {_STREETS_WIDTHS} --steps 1000 --run.validate_every 250",
            "128x256": f"streets_256x512 --cascade.widths {_STREETS_WIDTHS} 32 --steps 300 --run.validate_every 100",
            "256x512": "streets_256x512 --steps 900",
        },
    ),
    # The run that comes with crn_jax (`load_run("streets")`). A stage that compares colours alone separates the moods anew when
    # modules are added; then the layers of VGG-19 up to conv3_2 sharpen the images.
    # python -m launch.train packaged_streets
    # Expect: a held-out distance of 120.9 (the mean photograph has 242) after two hours on two cores, beside other work.
    "packaged_streets": Recipe(
        "Detailed streets in six moods by growth: by the colours alone at first, then by VGG-19's layers up to conv3_2.",
        {
            "32x64": f"{_COLOURS} --cascade.widths 192 192 176 144 --data.num_scenes 300 --steps 900",
            "64x128": f"{_COLOURS} --cascade.widths 192 192 176 144 96 --steps 500",
            "64x128_features": f"{_FEATURES} --cascade.widths 192 192 176 144 96 --steps 2000",
            "128x256": f"{_COLOURS} --optimizer.freeze module_[0-4] --steps 300",
            "128x256_features": f"{_FEATURES} --steps 2800",
            "128x256_fine": f"{_FEATURES} --optimizer.learning_rate 3e-4 --steps 600",
        },
    ),
}


# Ablations: trainings of the experiments above, with the same budget, data order and evaluation. Variants are command lines of
# launch.train, and the first variant is the reference with which the others are compared.


def _papers_comparison(data: str, cascade: str, size: Mapping[str, str]) -> Ablation:
    """Returns the comparison of the paper's Table 1, in its order, with the percentages of people who preferred the cascade.

    `size` gives, for a variant or the segmenter, the words of the command line that change its experiment's size.
    """
    published = {
        "full_resolution": (67.7, 65.8),
        "encoder_decoder": (78.3, 71.2),
        "pix2pix": (96.9, 77.2),
        "gan_segmentation": (98.5, 82.3),
        "image_space": (99.7, 91.4),
    }
    about = {
        "full_resolution": "Ten dilated convolutions without resampling. We chose what the paper does not say.",
        "encoder_decoder": "A U-Net with about as many parameters, and the same loss and procedure. We chose the widths.",
        "pix2pix": "The published networks and losses, with one-hot layouts and as many of the eight levels as fit. All "
        "variants see the same data, so there is no jitter or mirroring. Both networks are updated at once, and there is no "
        "moving average of the parameters.",
        "gan_segmentation": "A GAN in the manner of DCGAN. We chose the widths and the weights. It is trained to please the "
        "suite's segmenter, which also judges the mIoU unless --judge names another one. There is no moving average of the "
        "parameters.",
        "image_space": "The same cascade, trained with the difference of the colours alone.",
    }

    def words(name: str, experiment: str) -> str:
        return f"{experiment} {size.get(name, '')}".strip()

    others = (
        Variant(name.replace("_", "-"), words(name, f"{data}_{name}"), about[name], dict(zip(("Cityscapes", "NYU"), people)))
        for name, people in published.items()
    )
    return Ablation(
        "What does the cascade gain over what the paper compares it with?",
        (Variant("cascade", words("cascade", cascade), "The paper's cascade, trained with the perceptual loss."), *others),
        words("segmenter", f"segmenter_{data}"),
    )


def _words(numbers: Iterable[int]) -> str:
    """Returns numbers as words of a command line."""
    return " ".join(map(str, numbers))


def _without(tap: int) -> str:
    """Returns the weights of Eq. 1 without one layer."""
    return _words(int(i != tap) for i in range(len(TAPS)))


def _designs_choices(of: Experiment) -> Ablation:
    """Returns the choices of the design as variants of an experiment that rescales λ after its first epoch."""
    (height, width), widths = of.cascade.base, of.cascade.widths

    def without_modules(number: int) -> Variant:
        base = f"--cascade.base {height << number} {width << number}"
        return Variant(
            f"{len(widths) - number} modules",
            f"{of.name} {base} --cascade.widths {_words(widths[number:])}",
            "The first module is at a larger size. This variant also has fewer parameters.",
        )

    def of_the_widths(part: int) -> Variant:
        return Variant(f"1/{part} of the widths", f"{of.name} --cascade.widths {_words(w // part for w in widths)}")

    return Ablation(
        "Which of the design's choices matter?",
        (
            Variant("as it is", of.name),
            *(without_modules(number) for number in (1, 2, 3)),
            Variant("no layer norm", f"{of.name} --cascade.no_norm", "Biases take the place of the norms."),
            Variant("no norm at the end", f"{of.name} --cascade.variant paper", "The paper says so; its program has a norm."),
            Variant("half-pixel upsampling", f"{of.name} --cascade.upsampling half_pixel", "Today's libraries upsample so."),
            Variant("layout at the first only", f"{of.name} --cascade.layout_at first", "Other modules do not see it."),
            *(of_the_widths(part) for part in (2, 4)),
            *(Variant(f"without {tap}", f"{of.name} --lambdas.initial {_without(i)}") for i, tap in enumerate(TAPS)),
            Variant(
                "image only",
                f"{of.name} --lambdas.initial {_words(int(tap == TAPS[0]) for tap in TAPS)} --lambdas.rescale_epoch None",
                "The loss has the term of Φ_0 alone.",
            ),
            Variant("deep layers only", f"{of.name} --lambdas.initial 0 0 0 0 1 1", "The loss has conv4_2 and conv5_2 alone."),
            Variant("max pooling", f"{of.name} --vgg.pooling max", "In the loss; the VGG-19 of the scores pools by averages."),
            Variant("untrained VGG-19", f"{of.name} --vgg.untrained", "In the loss; the scores use ImageNet's weights."),
            Variant("λ never rescaled", f"{of.name} --lambdas.rescale_epoch None", "λ is 1/elements throughout."),
            Variant("λ rescaled at epoch 2", f"{of.name} --lambdas.rescale_epoch 2"),
            Variant("conv5_2 tenfold", f"{of.name} --lambdas.conv5_2_factor 10", "The others contribute equally."),
            Variant(
                "λ released",
                f"{of.name} --lambdas.initial {_RELEASED} --lambdas.rescale_epoch None",
                "The weights of the authors' program, which were found on Cityscapes, are used from the start.",
            ),
            Variant("the paper's rate", f"{of.name} --optimizer.learning_rate 1e-4", "Adam's learning rate is 1e-4."),
        ),
    )


_DIVERSE = "streets_diverse --cascade.widths 128 128 96 48"

ABLATIONS = {
    # python -m launch.ablate paper --data DIR --budget 2202
    # Expect: the results in docs/ablations.md after three and a half hours on two cores beside other work, with the segmenter.
    "paper": _papers_comparison("camvid", "camvid_96x128", {}),
    # The widths at 48x64 give the encoder-decoder as many parameters as the cascade.
    #   python -m launch.ablate paper_48x64 --data DIR --budget 8808 --jobs 2
    # Expect: the results in docs/ablations.md; five variants took an hour and a half on two cores, beside other work.
    "paper_48x64": _papers_comparison(
        "camvid",
        "camvid_96x128",
        {
            "cascade": f"--cascade.widths {_words(camvid_48x64.cascade.widths)}",
            "image_space": f"--cascade.widths {_words(camvid_48x64.cascade.widths)}",
            "full_resolution": "--baseline.size 48 64",
            "encoder_decoder": "--baseline.size 48 64 --baseline.widths 48 96 192 320",
            "pix2pix": "--gan.size 48 64",
            "gan_segmentation": "--gan.size 48 64",
            "segmenter": "--segmenter.size 48 64",
        },
    ),
    # python -m launch.ablate paper_cityscapes --data DIR --jobs 6
    # Expect: we have not yet run it.
    "paper_cityscapes": _papers_comparison("cityscapes", "cityscapes_256p", {}),
    # python -m launch.ablate design --data DIR --seeds 3 --jobs 2
    # Expect: the results in docs/ablations.md after an hour for each seed on two cores.
    "design": _designs_choices(camvid_48x64),
    # This ablation uses procedural streets at 32x64, whose hidden choices are known, and needs no data.
    #   python -m launch.ablate diversity --budget 1500 --jobs 2 --seeds 3
    # Expect: the results in docs/ablations.md after an hour for each seed on two cores.
    "diversity": Ablation(
        "How many images, which of them is rewarded, and what does the mean add?",
        (
            Variant("k = 6", _DIVERSE, "The best image of each class (Eq. 3), and a thousandth of the mean."),
            Variant("k = 1", f"{_DIVERSE} --cascade.num_images 1"),
            Variant("k = 3", f"{_DIVERSE} --cascade.num_images 3"),
            Variant("k = 9", f"{_DIVERSE} --cascade.num_images 9"),
            Variant("best whole image", f"{_DIVERSE} --loss.best_per image", "The loss is Eq. 2."),
            Variant("no mean", f"{_DIVERSE} --loss.mean_share 0"),
            Variant("a hundredth of the mean", f"{_DIVERSE} --loss.mean_share 0.01"),
        ),
    ),
    # This ablation uses procedural streets, whose instances are known, and needs no data.
    #   python -m launch.ablate boundaries --budget 250 --seeds 2
    # Expect: no clear difference (docs/ablations.md), since cars and people touch in few pixels.
    "boundaries": Ablation(
        "What do instance boundaries bring?",
        (
            Variant("classes alone", "demo", "The paper's layouts: two cars that touch are one region."),
            Variant("instance boundaries", "demo --cascade.boundaries", "One more channel marks the boundaries of instances."),
        ),
        classes=("car", "person"),
    ),
    # This ablation uses procedural streets, and needs no data but two devices.
    #   JAX_NUM_CPU_DEVICES=2 python -m launch.ablate rounding --budget 300 --seeds 3
    # Expect: differences below those of seeds (docs/ablations.md) after half an hour on two cores.
    "rounding": Ablation(
        "Do memory, precision or a mesh change the images more than a seed does?",
        (
            Variant(
                "one device", "demo --sharding.mesh 1 1 --remat none", "In float32; the backward pass keeps what it needs."
            ),
            Variant("remat full", "demo --sharding.mesh 1 1 --remat full", "The backward pass computes most layers again."),
            Variant(
                "bfloat16",
                "demo --sharding.mesh 1 1 --remat none --cascade.dtype bfloat16",
                "Convolutions have 8 bits of mantissa.",
            ),
            Variant("two devices", "demo --sharding.mesh 1 2 --remat none", "Each device computes half of every image."),
        ),
    ),
}
