"""Records what clean-fid computes into tests/data: `python -m tests.support.record_clean_fid [CAMVID]`.

Run with clean-fid 0.1.35, Pillow 12 and torch 2.13.0 on a CPU; the tests need none of them. CAMVID is the folder of the shared
photographs; without it, only drawn images are recorded.
"""

import sys
from pathlib import Path

import numpy as np
from cleanfid.fid import fid_from_feats, kernel_distance
from cleanfid.resize import build_resizer
from PIL import Image

from tests.support.named_weights import image

DATA = Path(__file__).parents[1] / "data"


def record(camvid: Path | None) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 24)), rng.normal(0.3, 1.2, (50, 24))
    recorded = {"fid": fid_from_feats(x, y), "kid": [kernel_distance(x, b) for b in (y[:40], x[::-1] + 0.1)]}
    kept = recorded["kept"] = np.linspace(0, 298, 24).astype(int)
    resizers = {mode: build_resizer(mode) for mode in ("clean", "legacy_pytorch")}
    pictures = {f"drawn{seed}": image(seed, *size) for seed, size in enumerate([(96, 128), (299, 299), (400, 700)])}
    if camvid:
        files = sorted((camvid / "val").iterdir())[:2]
        pictures |= {f"photograph{i}": np.asarray(Image.open(file).convert("RGB")) for i, file in enumerate(files)}
    for name, picture in pictures.items():
        for mode, resizer in resizers.items():
            recorded[f"{name}_{mode}"] = resizer(picture)[kept][:, kept]
    np.savez_compressed(DATA / "clean_fid_reference.npz", **recorded)


if __name__ == "__main__":
    record(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
