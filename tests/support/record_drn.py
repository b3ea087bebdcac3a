"""Records what the original DRN-D-105 computes into tests/data: `python -m tests.support.record_drn CHECKOUT PHOTOGRAPH`.

CHECKOUT is a clone of https://github.com/fyu/drn (recorded at d75db2e, with torch 2.13.0 on a CPU), and PHOTOGRAPH is
camvid/val/0016E5_07959.jpg of the shared data. The tests do not need the clone.
"""

import importlib
import math
import re
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.support.named_weights import image, named_weights

DATA = Path(__file__).parents[1] / "data"
SIZES = (40, 56), (33, 47)
REGION = np.s_[150:198, 200:264]
"""The rows and columns of the photograph that are judged."""


def part(checkout: Path, begin: str, end: str, **names: object) -> dict:
    """The names that a part of the original's segment.py defines. The whole file is no Python of today."""
    found = re.search(rf"{begin}.*?(?={end})", (checkout / "segment.py").read_text(), re.DOTALL)
    assert found
    exec(found[0], names)
    return names


def original(checkout: Path) -> torch.nn.Module:
    """The original's DRNSeg with drawn weights."""
    sys.path.insert(0, str(checkout))
    names = part(
        checkout, "def fill_up_weights", r"class SegList\(", nn=torch.nn, math=math, drn=importlib.import_module("drn")
    )
    network = names["DRNSeg"]("drn_d_105", 19, pretrained=False)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if name != "up.weight"}
    network.load_state_dict({name: torch.from_numpy(w) for name, w in named_weights(shapes).items()}, strict=False)
    return network.eval()


@torch.inference_mode()
def record(checkout: Path, photograph: Path) -> None:
    network, recorded = original(checkout), {}
    info = {"mean": [0.29010095242892997, 0.32808144844279574, 0.28696394422942517]}
    info["std"] = [0.1829540508368939, 0.18656561047509476, 0.18447508988480435]  # datasets/cityscapes/info.json
    with Image.open(photograph) as picture:
        images = [*(image(seed, *size) for seed, size in enumerate(SIZES)), np.asarray(picture)[REGION]]
    for seed, pixels in enumerate(images):
        x = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float().div(255)
        for channel, mean, std in zip(x, info["mean"], info["std"]):
            channel.sub_(mean).div_(std)
        coarse = network.seg(network.base(x[None]))
        recorded[f"coarse{seed}"] = coarse[0].permute(1, 2, 0).numpy()
        enlarged = network.up(coarse)[0].permute(1, 2, 0).numpy()
        recorded[f"classes{seed}"] = network(x[None])[0][0].argmax(0).numpy().astype(np.uint8)
        recorded[f"some{seed}"] = enlarged[::3, ::5]
    recorded["up"] = network.up.weight.numpy()[0, 0]
    scores, rng = part(checkout, "def fast_hist", "def save_output_images", np=np), np.random.default_rng(0)
    label, predicted = rng.choice([*range(15), 255], 2000), rng.integers(0, 18, 2000)  # some classes are missing
    predicted[::2] = np.where(label[::2] < 19, label[::2], predicted[::2])
    recorded["labels"] = np.stack([label, predicted]).astype(np.uint8)
    recorded["hist"] = scores["fast_hist"](predicted, label, 19)
    with np.errstate(invalid="ignore"):
        recorded["iou"] = scores["per_class_iu"](recorded["hist"])
    np.savez_compressed(DATA / "drn_reference.npz", **recorded)


if __name__ == "__main__":
    record(Path(sys.argv[1]), Path(sys.argv[2]))
