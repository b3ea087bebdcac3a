"""Records what the original DeepLabV2 and UPerNet compute into tests/data:
`python -m tests.support.record_segmenters DEEPLAB UPERNET PHOTOGRAPH`.

DEEPLAB is a clone of https://github.com/kazuto1011/deeplab-pytorch (recorded at 4219467), UPERNET one of
https://github.com/CSAILVision/semantic-segmentation-pytorch (recorded at 8f27c9b), and PHOTOGRAPH is
camvid/val/0016E5_07959.jpg of the shared data. torch 2.13.0 (on a CPU), OpenCV 5.0.0 and Pillow 13.0.0 were used. The tests do
not need the clones.
"""

import contextlib
import importlib
import runpy
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from tests.support.named_weights import image, named_weights

DATA = Path(__file__).parents[1] / "data"
SIZES = (40, 56), (33, 47)  # the sides of the second are odd
REGION = np.s_[150:198, 200:264]
"""The rows and columns of the photograph that are judged."""
IN_255 = 3600
"""How much larger the variance of images of 0..255 is than that of images whose deviation is 1."""
SHORTER_SIDES = (48, 64)
"""The sizes at which UPerNet sees images here. Those of its program, which are larger, are recorded without the network."""
OF_2018 = "7c5ea37"
"""The last commit of UPERNET before SPADE appeared. It prepares images as the weights of 2018 need it."""


def shown(photograph: Path) -> list[np.ndarray]:
    """Two drawn images, and a part of the photograph."""
    with Image.open(photograph) as picture:
        return [*(image(seed, *size) for seed, size in enumerate(SIZES)), np.asarray(picture)[REGION].copy()]


def with_drawn_weights(network: torch.nn.Module) -> torch.nn.Module:
    """The network with drawn weights, in inference."""
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    drawn = {name: torch.from_numpy(weight) for name, weight in named_weights(shapes).items()}
    network.load_state_dict(drawn)
    return network.eval()


@torch.inference_mode()
def record_deeplab(checkout: Path, photograph: Path) -> None:
    """Records what the original DeepLabV2, in a checkout of its repository, says of a photograph."""
    sys.path.insert(0, str(checkout))
    models, recorded = importlib.import_module("libs.models"), {}
    metric = runpy.run_path(str(checkout / "libs" / "utils" / "metric.py"))
    network = with_drawn_weights(models.DeepLabV2_ResNet101_MSC(n_classes=182))
    network.base.layer1.conv1.bn.running_var.mul_(IN_255)
    for number, pixels in enumerate(shown(photograph)):
        bgr = pixels[..., ::-1].astype(np.float32)
        bgr -= np.array((104.008, 116.669, 122.675))  # libs/datasets/base.py, with the figures of cocostuff164k.yaml
        coarse = network(torch.from_numpy(bgr.transpose(2, 0, 1).copy())[None])
        logits = F.interpolate(coarse, size=pixels.shape[:2], mode="bilinear", align_corners=False)  # main.py, test
        recorded[f"coarse{number}"] = coarse[0].permute(1, 2, 0).numpy()[..., ::7]
        recorded[f"some{number}"] = logits[0].permute(1, 2, 0).numpy()[::3, ::5, ::13]
        recorded[f"classes{number}"] = logits[0].argmax(0).numpy().astype(np.uint8)
    rng = np.random.default_rng(0)
    label, predicted = rng.choice([*range(150), 255], 2000), rng.integers(0, 182, 2000)  # some classes are only predicted
    found = metric["scores"]([label], [predicted], 182)
    recorded["labels"] = np.stack([label, predicted]).astype(np.uint8)
    recorded["scores"] = np.array([found["Mean IoU"], found["Pixel Accuracy"]])
    np.savez_compressed(DATA / "deeplab_reference.npz", **recorded)


@contextlib.contextmanager
def torchvision() -> Iterator[None]:
    """The one function that the program takes from torchvision, as it is there."""

    class Normalize:
        def __init__(self, mean: list[float], std: list[float]):
            self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (mean, std))

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return (x - self.mean) / self.std

    transforms = types.SimpleNamespace(Normalize=Normalize)
    sys.modules["torchvision"] = types.ModuleType("torchvision")
    sys.modules["torchvision"].transforms = transforms
    yield
    del sys.modules["torchvision"]


def of_2018(checkout: Path) -> type:
    """The class that prepared images before August 2019."""
    command = ["git", "-C", str(checkout), "show", f"{OF_2018}:dataset.py"]
    source = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    names = {"torch": torch, "np": np, "cv2": cv2}
    names["torchdata"], names["transforms"] = torch.utils.data, sys.modules["torchvision"].transforms
    exec(source[source.index("class BaseDataset") :], names)
    return names["TestDataset"]


def prepared(dataset: type, pixels: np.ndarray, sides: tuple[int, ...]) -> list[torch.Tensor]:
    """What the program shows to its network."""
    options = types.SimpleNamespace(imgSize=sides, imgSizes=sides, imgMaxSize=1000, padding_constant=32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.png"
        Image.fromarray(pixels).save(path)
        return dataset([{"fpath_img": str(path)}], options)[0]["img_data"]


@torch.inference_mode()
def record_upernet(checkout: Path, photograph: Path) -> None:
    """Records what the original UPerNet101, in a checkout of its repository, says of a photograph."""
    sys.path.insert(0, str(checkout))
    models = importlib.import_module("mit_semseg.models.models")
    resnet = importlib.import_module("mit_semseg.models.resnet")
    utils = importlib.import_module("mit_semseg.utils")
    encoder = with_drawn_weights(models.Resnet(resnet.ResNet(resnet.Bottleneck, [3, 4, 23, 3])))
    decoder = models.ModelBuilder.build_decoder("upernet", fc_dim=2048, num_class=150, use_softmax=True)
    decoder, coarse, recorded = with_drawn_weights(decoder), [], {}
    decoder.conv_last.register_forward_hook(lambda module, inputs, output: coarse.append(output))
    with torchvision():
        of_2019 = importlib.import_module("mit_semseg.dataset").TestDataset
        generations = [("2019", of_2019, (300, 375, 450, 525, 600)), ("2018", of_2018(checkout), (450,))]
        for year, dataset, sides in generations:
            for number, pixels in enumerate(shown(photograph)):
                for side, x in zip(sides, prepared(dataset, pixels, sides)):
                    recorded[f"prepared{year}_{number}_{side}"] = x[0].permute(1, 2, 0).numpy()[5::97, 7::89]
                    recorded[f"size{year}_{number}_{side}"] = np.array(x.shape[2:])
        for number, pixels in enumerate(shown(photograph)):
            coarse.clear()
            scores = torch.zeros(1, 150, *pixels.shape[:2])
            for x in prepared(of_2019, pixels, SHORTER_SIDES):  # as in eval.py
                features = encoder(x, return_feature_maps=True)
                scores = scores + decoder(features, segSize=pixels.shape[:2]) / len(SHORTER_SIDES)
            recorded[f"coarse{number}"] = coarse[0][0].permute(1, 2, 0).numpy()[..., ::11]
            recorded[f"some{number}"] = scores[0].permute(1, 2, 0).numpy()[::3, ::5, ::13]
            recorded[f"classes{number}"] = scores[0].argmax(0).numpy().astype(np.uint8)
        (x,) = prepared(of_2018(checkout), image(0, *SIZES[0]), SHORTER_SIDES[:1])
        encoder.bn1.running_var.mul_(IN_255)
        decoder(encoder(x, return_feature_maps=True), segSize=SIZES[0])
        recorded["seen2018"] = x[0].permute(1, 2, 0).numpy()
        recorded["coarse2018"] = coarse[-1][0].permute(1, 2, 0).numpy()[..., ::11]
    rng = np.random.default_rng(0)
    label, predicted = rng.integers(-1, 140, 2000), rng.integers(0, 140, 2000)  # some classes occur nowhere
    recorded["labels"] = np.stack([label, predicted]).astype(np.int16)
    shared, union = utils.intersectionAndUnion(predicted, label, 150)
    recorded["scores"] = np.array([(shared / (union + 1e-10)).mean(), utils.accuracy(predicted, label)[0]])
    np.savez_compressed(DATA / "upernet_reference.npz", **recorded)


if __name__ == "__main__":
    deeplab, upernet, photograph = map(Path, sys.argv[1:])
    record_deeplab(deeplab, photograph)
    record_upernet(upernet, photograph)
