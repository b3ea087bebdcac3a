"""Records what torch, pytorch-fid and lpips compute and write, into tests/data: `python -m tests.support.record_references`.

Run with Python 3.11, torch 2.14.1, torchvision 0.29.1, pytorch-fid 0.3.0 and lpips 0.1.4 on a CPU; none of them is needed for
the tests.
"""

import collections
import copyreg
import re
from pathlib import Path

import lpips
import numpy as np
import pytorch_fid.inception
import torch
import torchvision

from tests.support.named_weights import image, named_weights

DATA = Path(__file__).parents[1] / "data"


def state_dict() -> dict[str, torch.Tensor]:
    """All that the reader has to get right: types, strides, offsets, storages that are shared, no dimension, no element."""
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    state = torch.nn.BatchNorm2d(3).state_dict()  # with _metadata, and num_batches_tracked
    tensors = {
        "base": base,
        "transposed": base.permute(2, 0, 1),
        "part": base[1, 1:, ::2],
        "expanded": torch.tensor([[1.5], [-2.5]]).expand(2, 3),
        "parameter": torch.nn.Parameter(torch.tensor([0.5, -0.25])),
        "empty": torch.zeros(0, 3),
        "half": torch.tensor([0.1, -65504.0]).half(),
        "double": torch.tensor([0.1, 1e300], dtype=torch.float64),
        "int64": torch.tensor([-(2**62), 7]),
        "uint8": torch.tensor([0, 255], dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
    }
    state.update(tensors)
    return state


class AsIn2017:
    """Pickles as the tensors and parameters of torch 0.1 and 0.2 did, which torchvision's oldest files hold."""

    def __init__(self, cls: type, arguments: tuple, state: tuple):
        self.cls, self.reduced = cls, (copyreg.__newobj__, (cls, *arguments), state)

    @property
    def __class__(self):  # pickle checks it
        return self.cls

    def __reduce_ex__(self, protocol: int) -> tuple:
        return self.reduced


def state_dict_as_in_2017() -> dict[str, AsIn2017]:
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3).T
    old = AsIn2017(torch.FloatTensor, (), (tensor.storage(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()))
    parameters = {
        "built from a state": AsIn2017(torch.nn.Parameter, (), (old, None, collections.OrderedDict(), True, False)),
        "built from a tensor": AsIn2017(torch.nn.Parameter, (old,), (True, False, collections.OrderedDict())),
    }
    return collections.OrderedDict(tensor=old, **parameters)


def record_torch_files() -> None:
    torch.save(state_dict(), DATA / "zip.pth")
    torch.save(state_dict(), DATA / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(state_dict_as_in_2017(), DATA / "as_in_2017.pth", _use_new_zipfile_serialization=False)
    for name, tensor in torch.load(DATA / "as_in_2017.pth", weights_only=True).items():
        assert torch.equal(tensor.data, torch.arange(6).reshape(2, 3).T), name
    torch.save({"weight": torch.ones(2), "epoch": 3}, DATA / "checkpoint.pth")
    torch.save(torch.nn.Linear(2, 3), DATA / "module.pth")


def shapes_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def as_torch(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.float32(images)).permute(0, 3, 1, 2)


@torch.inference_mode()
def record_inception() -> None:
    network = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    weights = {name: torch.from_numpy(w) for name, w in named_weights(shapes_of(network)).items()}
    pytorch_fid.inception.load_state_dict_from_url = lambda *_, **__: weights
    inception = pytorch_fid.inception.InceptionV3().eval()
    images = [as_torch(image(seed, *size)[None]) / 255 for seed, size in enumerate([(96, 128), (299, 299), (320, 400)])]
    features = [inception(x)[0].flatten().numpy() for x in images]

    kept = np.linspace(0, 298, 24).astype(int)  # rows and columns of the resized images, the outermost among them
    inception.blocks = torch.nn.ModuleList([torch.nn.Identity()])
    inception.output_blocks, inception.last_needed_block = [0], 0
    inputs = [inception(x)[0][0].permute(1, 2, 0).numpy()[kept][:, kept] for x in images]
    np.savez_compressed(DATA / "inception_reference.npz", features=features, kept=kept, inputs=inputs)


@torch.inference_mode()
def record_lpips() -> None:
    recorded = {}
    for net in "alex", "vgg":
        metric = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
        shapes = {name: shape for name, shape in shapes_of(metric).items() if re.match(r"net\.|lin\d", name)}
        published = {name: re.sub(r"net\.slice\d", "features", name) for name in shapes}
        drawn = named_weights({published[name]: shape for name, shape in shapes.items()})
        # not strict: `lins` has the same tensors again, and there are constants
        metric.load_state_dict({name: torch.from_numpy(drawn[published[name]]) for name in shapes}, strict=False)
        a, b = (np.stack([image(seed + s, 33, 47) for s in range(3)]) for seed in (10, 20))
        b[1], b[2] = a[1] // 2 + 30, a[2]
        recorded[net] = metric(as_torch(a) / 127.5 - 1, as_torch(b) / 127.5 - 1).flatten().numpy()
    np.savez_compressed(DATA / "lpips_reference.npz", **recorded)


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    record_torch_files()
    record_inception()
    record_lpips()
