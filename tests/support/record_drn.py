"""Records what the original DRN-D-105 computes into tests/data: `python -m tests.support.record_drn CHECKOUT`.

CHECKOUT is a clone of https://github.com/fyu/drn (recorded at d75db2e, with torch 2.13.0 on a CPU). The tests do not need it.
"""

import importlib
import math
import re
import sys
from pathlib import Path

import numpy as np
import torch

from tests.support.named_weights import image, named_weights

DATA = Path(__file__).parents[1] / "data"
SIZES = (40, 56), (33, 47)


def original(checkout: Path) -> torch.nn.Module:
    """The original's DRNSeg with drawn weights. Its file segment.py is no Python of today, so its network is cut out of it."""
    sys.path.insert(0, str(checkout))
    source = (checkout / "segment.py").read_text()
    part = re.search(r"def fill_up_weights.*?(?=class SegList\()", source, re.DOTALL)
    assert part
    names = {"nn": torch.nn, "math": math, "drn": importlib.import_module("drn")}
    exec(part[0], names)
    network = names["DRNSeg"]("drn_d_105", 19, pretrained=False)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if name != "up.weight"}
    network.load_state_dict({name: torch.from_numpy(w) for name, w in named_weights(shapes).items()}, strict=False)
    return network.eval()


@torch.inference_mode()
def record(checkout: Path) -> None:
    network, recorded = original(checkout), {}
    info = {"mean": [0.29010095242892997, 0.32808144844279574, 0.28696394422942517]}
    info["std"] = [0.1829540508368939, 0.18656561047509476, 0.18447508988480435]  # datasets/cityscapes/info.json
    for seed, size in enumerate(SIZES):
        x = torch.from_numpy(image(seed, *size)).permute(2, 0, 1).float().div(255)
        for channel, mean, std in zip(x, info["mean"], info["std"]):
            channel.sub_(mean).div_(std)
        coarse = network.seg(network.base(x[None]))
        recorded[f"coarse{seed}"] = coarse[0].permute(1, 2, 0).numpy()
        enlarged = network.up(coarse)[0].permute(1, 2, 0).numpy()
        recorded[f"classes{seed}"] = network(x[None])[0][0].argmax(0).numpy().astype(np.uint8)
        recorded[f"some{seed}"] = enlarged[::3, ::5]
    recorded["up"] = network.up.weight.numpy()[0, 0]
    np.savez_compressed(DATA / "drn_reference.npz", **recorded)


if __name__ == "__main__":
    record(Path(sys.argv[1]))
