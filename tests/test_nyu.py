import pickle
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import scipy.io

from crn_jax.data import nyu
from crn_jax.data.sources import DataConfig, open_source
from crn_jax.errors import UserError

pytestmark = pytest.mark.quick

HEIGHT, WIDTH, FRAMES = 6, 8, 1449


@pytest.fixture(scope="module")
def arrays():
    """Upright, as MATLAB shows them: photographs [h, w, 3, n], ids [h, w, n]."""
    rng = np.random.default_rng(0)
    photographs = rng.integers(0, 256, (HEIGHT, WIDTH, 3, FRAMES)).astype(np.uint8)
    return photographs, rng.integers(0, 895, (HEIGHT, WIDTH, FRAMES)).astype(np.uint16)


@pytest.fixture
def root(tmp_path, arrays):
    """The file in the published layout: MATLAB's arrays with the axes reversed, compressed, in chunks."""
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as file:
        for key, array in zip(("images", "labels"), arrays):
            file.create_dataset(key, data=array.T, chunks=(20, *array.T.shape[1:]), compression="gzip")
    return tmp_path


def opened(root, split="train", labels="nyu894"):
    return open_source(DataConfig("nyu", str(root), labels=labels), split, (HEIGHT, WIDTH))


def test_frames_stand_upright(root, arrays):
    photographs, ids = arrays
    source = opened(root)
    for index in (0, 7, 1199):
        example = source[index]
        np.testing.assert_array_equal(example["photograph"], photographs[..., index])
        expected = np.vectorize(source.label_space.ids.get)(ids[..., index])
        assert example["layout"].dtype == np.uint16 and (example["layout"] == expected).all()
    with pytest.raises(IndexError):
        source[1200]


def test_the_first_1200_and_the_last_249(root, arrays):
    train, val = opened(root), opened(root, "val")
    assert (len(train), len(val)) == (1200, 249)
    assert (train.names[0], train.names[-1], val.names[0], val.names[-1]) == ("0001", "1200", "1201", "1449")
    np.testing.assert_array_equal(val[248]["photograph"], arrays[0][..., 1448])
    assert "the first 1200 frames are for training" in train.notes[0]


def test_the_official_split_lies_beside(root, arrays):
    rng = np.random.default_rng(1).permutation(FRAMES) + 1
    scipy.io.savemat(root / "splits.mat", {"trainNdxs": rng[:795, None], "testNdxs": rng[795:, None]})
    train, val = opened(root), opened(root, "val")
    assert train.frames == sorted(rng[:795]) and val.frames == sorted(rng[795:])
    np.testing.assert_array_equal(val[5]["photograph"], arrays[0][..., sorted(rng[795:])[5] - 1])
    assert "splits.mat" in train.notes[0]
    scipy.io.savemat(root / "splits.mat", {"trainNdxs": [[1], [1450]], "testNdxs": [[3]]})
    with pytest.raises(UserError, match=r"splits\.mat lists frames 1\.\.1450, but .* has 1\.\.1449"):
        opened(root)
    scipy.io.savemat(root / "splits.mat", {"trainNdxs": np.zeros((0, 1)), "testNdxs": [[3]]})
    with pytest.raises(UserError, match=r"splits\.mat: trainNdxs is empty"):
        opened(root)


def few_frames(root, dtype=np.uint8, count=4):
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = np.zeros((count, 3, WIDTH, HEIGHT), dtype)
        file["labels"] = np.zeros((count, WIDTH, HEIGHT), np.uint16)
    return root


def test_fewer_frames_than_the_papers_need_a_list(tmp_path):
    few_frames(tmp_path)
    for split in ("train", "val"):
        with pytest.raises(
            UserError, match=r"labeled\.mat has 4 frames, .* Put splits\.mat beside it, which lists .*trainNdxs"
        ):
            opened(tmp_path, split)
    scipy.io.savemat(tmp_path / "splits.mat", {"trainNdxs": [[1], [2], [4]], "testNdxs": [[3]]})
    assert opened(tmp_path).names == ["0001", "0002", "0004"] and opened(tmp_path, "val").names == ["0003"]


@pytest.mark.parametrize("dtype", [np.float64, np.uint16])
def test_photographs_of_another_type_are_refused(tmp_path, dtype):
    with pytest.raises(UserError, match=rf"labeled\.mat: images hold {np.dtype(dtype)}, not uint8\. Fetch"):
        opened(few_frames(tmp_path, dtype))


def test_threads_and_copies_in_other_processes_read_alike(root):
    source = opened(root)
    copy = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(8) as threads:
        for index, example in enumerate(threads.map(copy.__getitem__, range(100))):
            assert all((example[key] == source[index][key]).all() for key in example)


def test_an_unknown_id_is_named_with_its_frame(root):
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "r+") as file:
        file["labels"][41, 2, 3] = 999
    with pytest.raises(UserError, match=r"nyu_depth_v2_labeled\.mat, frame 42: label id 999 \(1 pixel\)"):
        opened(root)[41]


@pytest.mark.parametrize("label", [np.nan, np.inf, 3.5, 1e30])
def test_a_label_that_is_no_id_is_named_with_its_frame(tmp_path, arrays, label):
    """MATLAB stores numbers as float64 unless it is told otherwise."""
    photographs, ids = (array[..., :1201] for array in arrays)
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"], labels = photographs.T, ids.T.astype(np.float64)
        labels[41, 2, 3] = label
        file["labels"] = labels
    source = opened(tmp_path)
    np.testing.assert_array_equal(nyu.read_frame(tmp_path / "nyu_depth_v2_labeled.mat", 8)[1], ids[..., 7])
    with pytest.raises(UserError, match=r"nyu_depth_v2_labeled\.mat: frame 42 has a label .*, which is no id"):
        source[41]


def test_damaged_and_other_files_are_named(root):
    path = root / "nyu_depth_v2_labeled.mat"
    whole = path.read_bytes()
    for damaged in (b"", b"MATLAB 5.0 MAT-file" * 50, whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"nyu_depth_v2_labeled\.mat: this is no MATLAB 7\.3 file, or it is cut short"):
            opened(root)
    for key, shape in (("images", (9, 3, 8, 6)), ("labels", (9, 8, 5))):
        with h5py.File(path, "w" if key == "images" else "r+") as file:
            file[key] = np.zeros(shape, np.uint8)
        with pytest.raises(UserError, match=r"images and labels are \(9, 3, 8, 6\) and .*, not \[1449, 3, 640, 480\]"):
            opened(root)
    path.unlink()
    with pytest.raises(UserError, match=r"nyu_depth_v2_labeled\.mat: there is no such file\. Does --data\.root"):
        opened(root)


def test_a_damaged_frame_is_named(root):
    path = root / "nyu_depth_v2_labeled.mat"
    with h5py.File(path) as file:
        chunk = file["images"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 20 : chunk.byte_offset + 200] = bytes(180)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"nyu_depth_v2_labeled\.mat: frame 3 cannot be read"):
        nyu.read_frame(path, 3)
    assert nyu.read_frame(path, 40)[0].shape == (HEIGHT, WIDTH, 3)
