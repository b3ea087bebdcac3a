"""The named experiments. `python -m launch.train NAME [--field value ...]`; `launch.train --help` lists them.

Above each stand its command, its cost, and what to expect, measured where that is said.
"""

import dataclasses
from typing import Any

from crn_jax.ablation import Ablation, Variant
from crn_jax.baselines.full_resolution import FullResolutionConfig
from crn_jax.baselines.gan import GANConfig, GANLossConfig
from crn_jax.cascade import PAPER_WIDTHS, CascadeConfig
from crn_jax.data.labels.label_space import CAMVID, CITYSCAPES
from crn_jax.data.sources import DataConfig
from crn_jax.experiment import BaselineExperiment, Experiment, GANExperiment, RunConfig, SegmenterExperiment, Training
from crn_jax.growth import Recipe
from crn_jax.lambdas import LambdaConfig
from crn_jax.losses import RELEASED_WEIGHTS, LossConfig
from crn_jax.scores.segmenter import SegmenterConfig
from crn_jax.train import OptimizerConfig
from crn_jax.unet import EncoderDecoderConfig
from crn_jax.vgg import TAPS
from crn_jax.vgg_weights import VGGConfig


def _fields(experiment: Training, *names: str) -> dict[str, Any]:
    """What an experiment of another kind takes over from it."""
    return {name: getattr(experiment, name) for name in names}


# Procedural streets at 64x128: shows the whole path without any data.
#   python -m launch.train demo
# Expect: 500 steps in about three minutes on two CPU cores; surfaces, trees, cars and people in their places, soft; a
# held-out distance of 106 with random VGG-19 weights (they define the distance, so it compares with nothing else).
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

# The released program's loss of a collection: the best image of each class, and a thousandth of the mean.
COLLECTION = LossConfig(best_per="class", mean_share=0.001)

# Procedural streets with hidden choices (time of day, weather, colours of cars), six images a layout, the best of each class.
#   python -m launch.train streets_diverse
# Expect: 2,000 steps of a second on two cores; day, dusk, night and haze in different images; with an ImageNet VGG-19, a
# held-out distance of 188 (one image: 206).
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

# Procedural streets at 256x512, narrow, with the weights λ of the released program of that size: to compare growth with.
#   python -m launch.train streets_256x512
# Expect: a held-out distance of 184 (the mean photograph: 212) after 1,000 steps of 1.8 s on two cores.
streets_256x512 = dataclasses.replace(
    demo,
    name="streets_256x512",
    about="Procedural streets at 256x512 by a narrow cascade, trained on a CPU.",
    data=DataConfig("streets", num_scenes=500, clear_days=True),
    cascade=dataclasses.replace(demo.cascade, widths=(*demo.cascade.widths, 32, 16)),
    lambdas=LambdaConfig(initial=RELEASED_WEIGHTS["cityscapes_256p"], rescale_epoch=None),
    run=RunConfig(validate_every=50, validation_examples=12, checkpoint_every=50),
)

# CamVid, 367 photographs of 4:3. Narrow, for a CPU: 0.05 TFLOP a step. λ is rescaled early, as the run is short.
#   python -m launch.train camvid_96x128 --data.root DIR
# Expect: a held-out distance of 188 (the mean photograph: 264) after 8,074 steps of 0.4 s on two cores.
camvid_96x128 = Experiment(
    name="camvid_96x128",
    about="CamVid at 96x128 by a narrow cascade, trained in an hour or two on two CPU cores.",
    data=DataConfig("camvid"),
    cascade=CascadeConfig(CAMVID.num_classes, widths=(256, 256, 256, 256, 128, 64), base=(3, 4)),
    lambdas=LambdaConfig(rescale_epoch=2, conv5_2_factor=10),
    optimizer=OptimizerConfig(ema_decay=0.999),
    epochs=22,
    run=RunConfig(validate_every=734, checkpoint_every=367),
)

# What the paper compares the cascade with, as far as it is trained by the same loss (section 5), at the size of camvid_96x128.
# The encoder-decoder has about as many parameters as the cascade; the full-resolution network a quarter of the paper's maps.
#   python -m launch.train camvid_image_space --data.root DIR
#   python -m launch.train camvid_encoder_decoder --data.root DIR
#   python -m launch.train camvid_full_resolution --data.root DIR
# Expect: after 4 epochs, of 0.4 to 0.7 s a step on two cores, held-out distances of 239, 231 and 247 (the cascade: 230).
camvid_image_space = dataclasses.replace(
    camvid_96x128,
    name="camvid_image_space",
    about="The cascade of camvid_96x128, trained by the difference of the colours alone, without VGG-19's features.",
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

# Its adversarial baselines: pix2pix, with the published networks and losses, and a GAN with a segmenter, whose networks are our
# reconstruction (train segmenter_camvid first). Adam as pix2pix has it; no moving average, which the paper has not either.
#   python -m launch.train camvid_pix2pix --data.root DIR
#   python -m launch.train camvid_gan_segmentation --data.root DIR --segmenter runs/segmenter_camvid
# Expect: after 6 epochs, which are few for a GAN, held-out distances of 261 and 328 (docs/ablations.md).
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

# The paper's widths at 192x256, for a GPU: 2.5 TFLOP a step.
#   python -m launch.train camvid_192x256 --data.root DIR --cascade.dtype bfloat16
# Expect: 121 steps a second on an H200; held-out distances of 201, 196 and 187 after 10, 20 and 30 epochs (the mean photograph:
# 243). Not yet trained to the end by us.
camvid_192x256 = dataclasses.replace(
    camvid_96x128,
    name="camvid_192x256",
    about="CamVid at 192x256 by a cascade of the paper's widths, trained on a GPU.",
    cascade=CascadeConfig(CAMVID.num_classes, widths=PAPER_WIDTHS[:7], base=(3, 4)),
    lambdas=LambdaConfig(rescale_epoch=10, conv5_2_factor=10),
    epochs=100,
)

# The paper on Cityscapes (2975 photographs): Adam at 1e-4, batch 1, λ rescaled at epoch 100 of 200. 6.7 TFLOP a step,
# 595,000 steps. Loss and λ are the paper's, the cascade's last layer is the released program's. All is the paper's with
# --cascade.variant paper, and the program's in cityscapes_256p_diverse.
#   python -m launch.train cityscapes_256p --data.root DIR
# Expect: not yet trained by us; in bfloat16 a step takes 13.7 ms on an H200. The paper's images score 52.4 mIoU and 104.7 FID
# (as measured by SPADE's authors).
cityscapes_256p = Experiment(
    name="cityscapes_256p",
    about="Cityscapes at 256x512 by the paper's cascade.",
    data=DataConfig("cityscapes", threads=8),
    cascade=CascadeConfig(CITYSCAPES.num_classes, widths=PAPER_WIDTHS[:7]),
    run=RunConfig(validate_every=2975, checkpoint_every=2975),
)

# Nine images a layout, as the released program of this size makes them, with the weights λ that it contains, from the first
# step on. 8.3 TFLOP a step, and 0.9 to compute VGG-19 again.
#   python -m launch.train cityscapes_256p_diverse --data.root DIR
# Expect: not yet trained by us.
cityscapes_256p_diverse = dataclasses.replace(
    cityscapes_256p,
    name="cityscapes_256p_diverse",
    about="Cityscapes at 256x512 by the paper's cascade: nine images for each layout, of which the best shows each class.",
    cascade=dataclasses.replace(cityscapes_256p.cascade, num_images=9),
    lambdas=LambdaConfig(initial=RELEASED_WEIGHTS["cityscapes_256p"], rescale_epoch=None),
    loss=COLLECTION,
    remat="images",
)

# Eight and nine modules, all of them trained from scratch, with the weights λ that the released programs contain; 9.9 and
# 14.1 TFLOP a step. The released models start from the next smaller one and take 20 and 5 epochs.
#   python -m launch.train cityscapes_512p --data.root DIR
#   python -m launch.train cityscapes_1024p --data.root DIR --cascade.dtype bfloat16
# Expect: not yet trained by us. At 1024p all that can be is computed twice, for 7.1 GB; --remat none does without: 31.9 ms a
# step and 6.1 GB on an H200 in bfloat16.
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

# What the paper compares its cascade with, at its size and, where it tells them, its widths. The encoder-decoder has 1% more
# parameters than the cascade.
#   python -m launch.ablate paper_cityscapes --data DIR
# Expect: not yet trained by us.
cityscapes_image_space = dataclasses.replace(
    cityscapes_256p,
    name="cityscapes_image_space",
    about="The cascade of cityscapes_256p, trained by the difference of the colours alone, without VGG-19's features.",
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

# Segmenters, to score what cascades of the same size make of layouts (launch.evaluate --segmenter). 0.06 TFLOP a step.
#   python -m launch.train segmenter_camvid --data.root DIR
# Expect: a held-out mIoU of 45%, pixel accuracy 87%, after 2,730 steps of 0.7 s on two cores.
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
# Expect: not yet trained by us. Published scores are those of a DRN-D-105, which is the stronger judge.
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
        camvid_96x128,
        camvid_192x256,
        cityscapes_256p,
        cityscapes_256p_diverse,
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


# Growth: a cascade trained at one size, then with one more module at twice that size. Adam starts anew in each stage.

_GROWN_512P = "cityscapes_512p --epochs 20 --run.validate_every 2975"
_GROWN_1024P = "cityscapes_1024p --epochs 5 --run.validate_every 2975"
_CAMVID_WIDTHS, _STREETS_WIDTHS = "256 256 256 256 128", "128 128 128 96 48"

RECIPES = {
    # python -m launch.train cityscapes_grow --data.root DIR --cascade.dtype bfloat16
    # Expect: not yet trained by us. 595,000, 59,500 and 14,875 steps of 6.7, 9.9 and 14.1 TFLOP.
    "cityscapes_grow": Recipe(
        "Cityscapes to 1024x2048 by growth, all modules trained in each stage.",
        {"256p": "cityscapes_256p", "512p": _GROWN_512P, "1024p": _GROWN_1024P},
    ),
    # python -m launch.train cityscapes_grow_released --data.root DIR --data.cache DIR
    # Expect: not yet trained by us. Photographs of the two larger stages are made vivid (45 s each at 1024p), hence the cache.
    "cityscapes_grow_released": Recipe(
        "Cityscapes to 1024x2048 by growth, as the released models came about: nine images for each layout at first, vivid "
        "photographs then, and at 1024x2048 the last two modules alone.",
        {
            "256p": "cityscapes_256p_diverse",
            "512p": f"{_GROWN_512P} --data.vivid",
            "1024p": f"{_GROWN_1024P} --data.vivid --optimizer.freeze module_[0-6]",
        },
    ),
    # python -m launch.train camvid_grow --data.root DIR
    # Expect: held-out distances of 202, 206 and 197 (the mean photograph: 281, 264, 243), an hour on two busy cores.
    "camvid_grow": Recipe(
        "CamVid to 192x256 by growth, narrow, for a CPU.",
        {
            "48x64": f"camvid_96x128 --cascade.widths {_CAMVID_WIDTHS} --epochs 10",
            "96x128": f"camvid_96x128 --cascade.widths {_CAMVID_WIDTHS} 64 --epochs 6",
            "192x256": f"camvid_96x128 --cascade.widths {_CAMVID_WIDTHS} 64 32 --epochs 6",
        },
    ),
    # python -m launch.train streets_grow
    # Expect: a held-out distance of 177.5 (streets_256x512 in the same time: 183) after 33 minutes on two cores.
    "streets_grow": Recipe(
        "Procedural streets to 256x512 by growth, narrow: without any data, on a CPU.",
        {
            "64x128": f"streets_256x512 --cascade.widths {_STREETS_WIDTHS} --steps 1000 --run.validate_every 250",
            "128x256": f"streets_256x512 --cascade.widths {_STREETS_WIDTHS} 32 --steps 300 --run.validate_every 100",
            "256x512": "streets_256x512 --steps 900",
        },
    ),
}


# The ablations: trainings of the experiments above, under the same budget, data order and evaluation. Variants are command
# lines of launch.train; the first is what the others are compared with.


def _papers_comparison(data: str, cascade: str) -> Ablation:
    """Table 1 of the paper, in its order: whom people preferred the cascade to, and how many of a hundred did."""
    published = {
        "full_resolution": (67.7, 65.8),
        "encoder_decoder": (78.3, 71.2),
        "pix2pix": (96.9, 77.2),
        "gan_segmentation": (98.5, 82.3),
        "image_space": (99.7, 91.4),
    }
    about = {
        "full_resolution": "Ten dilated convolutions without resampling; our reconstruction, as far as the paper is silent.",
        "encoder_decoder": "A U-Net with about the cascade's parameters, its loss and procedure; the widths are ours.",
        "pix2pix": "Published networks and losses; the layout one-hot, at 96x128 five of the eight levels. No jitter or "
        "mirroring, as all variants see the same data; both networks updated at once; no moving average of the parameters.",
        "gan_segmentation": "In the manner of DCGAN; widths and weights are ours. Trained to please the suite's segmenter, "
        "which judges mIoU, too, unless --judge names another. No moving average of the parameters.",
        "image_space": "The same cascade, trained with the image's own difference alone.",
    }
    others = (
        Variant(name.replace("_", "-"), f"{data}_{name}", about[name], dict(zip(("Cityscapes", "NYU"), people)))
        for name, people in published.items()
    )
    return Ablation(
        "What does the cascade gain over what the paper compares it with?",
        (Variant("cascade", cascade, "Feedforward, trained end to end with the perceptual loss."), *others),
        f"segmenter_{data}",
    )


def _without(tap: int) -> str:
    """The weights of Eq. 1 without one layer."""
    return " ".join("0" if i == tap else "1" for i in range(len(TAPS)))


_CAMVID, _DIVERSE = "camvid_96x128", "streets_diverse"

ABLATIONS = {
    # python -m launch.ablate paper --data DIR --budget 2202
    # Expect: docs/ablations.md; two and a half hours on two cores, the segmenter included.
    "paper": _papers_comparison("camvid", _CAMVID),
    # python -m launch.ablate paper_cityscapes --data DIR --jobs 6
    # Expect: not yet run by us.
    "paper_cityscapes": _papers_comparison("cityscapes", "cityscapes_256p"),
    # python -m launch.ablate design --data DIR --budget 2202
    # Expect: not yet run by us.
    "design": Ablation(
        "Which of the design's choices matter?",
        (
            Variant("as it is", _CAMVID),
            Variant(
                "5 modules",
                f"{_CAMVID} --cascade.base 6 8 --cascade.widths 256 256 256 128 64",
                "Fewer parameters, too.",
            ),
            Variant(
                "4 modules",
                f"{_CAMVID} --cascade.base 12 16 --cascade.widths 256 256 128 64",
                "Likewise.",
            ),
            Variant("3 modules", f"{_CAMVID} --cascade.base 24 32 --cascade.widths 256 128 64", "Likewise."),
            Variant("no layer norm", f"{_CAMVID} --cascade.no_norm", "Biases in its place."),
            Variant("no norm at the end", f"{_CAMVID} --cascade.variant paper", "As the paper has it, not its program."),
            Variant("half-pixel upsampling", f"{_CAMVID} --cascade.upsampling half_pixel", "As today's libraries do it."),
            Variant("layout at the first only", f"{_CAMVID} --cascade.layout_at first", "At the first module."),
            Variant("1/2 of the widths", f"{_CAMVID} --cascade.widths 128 128 128 128 64 32"),
            Variant("1/4 of the widths", f"{_CAMVID} --cascade.widths 64 64 64 64 32 16"),
            *(Variant(f"without {tap}", f"{_CAMVID} --lambdas.initial {_without(i)}") for i, tap in enumerate(TAPS)),
            Variant("image only", "camvid_image_space", "Φ_0 alone."),
            Variant("deep layers only", f"{_CAMVID} --lambdas.initial 0 0 0 0 1 1", "conv4_2 and conv5_2 alone."),
            Variant("max pooling", f"{_CAMVID} --vgg.pooling max", "In the loss; the scores' VGG-19 pools by averages."),
            Variant("untrained VGG-19", f"{_CAMVID} --vgg.untrained", "In the loss; the scores' has ImageNet's weights."),
            Variant("λ never rescaled", f"{_CAMVID} --lambdas.rescale_epoch None", "1/elements throughout."),
            Variant("λ rescaled at epoch 1", f"{_CAMVID} --lambdas.rescale_epoch 1"),
            Variant("λ rescaled at epoch 4", f"{_CAMVID} --lambdas.rescale_epoch 4"),
            Variant("conv5_2 not tenfold", f"{_CAMVID} --lambdas.conv5_2_factor 1", "All layers contribute equally."),
            Variant(
                "λ released",
                f"{_CAMVID} --lambdas.initial {_RELEASED} --lambdas.rescale_epoch None",
                "The released program's divisors, found on Cityscapes, from the start.",
            ),
        ),
        "segmenter_camvid",
    ),
    # Of procedural streets, whose hidden choices are known; no data are needed.
    #   python -m launch.ablate diversity --budget 2000
    # Expect: not yet run by us.
    "diversity": Ablation(
        "How many images, which of them is rewarded, and what does the mean add?",
        (
            Variant("k = 6", _DIVERSE, "The best image of each class (Eq. 3), and a thousandth of the mean."),
            Variant("k = 1", f"{_DIVERSE} --cascade.num_images 1"),
            Variant("k = 3", f"{_DIVERSE} --cascade.num_images 3"),
            Variant("k = 9", f"{_DIVERSE} --cascade.num_images 9"),
            Variant("best whole image", f"{_DIVERSE} --loss.best_per image", "Eq. 2."),
            Variant("no mean", f"{_DIVERSE} --loss.mean_share 0"),
            Variant("a hundredth of the mean", f"{_DIVERSE} --loss.mean_share 0.01"),
        ),
    ),
}
