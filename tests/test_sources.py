import itertools

import numpy as np
import pytest
from PIL import Image

from crn_jax.data.label_space import CAMVID
from crn_jax.data.pipeline import spread, steps_per_epoch, training_batches, validation_batches
from crn_jax.data.sources import DataConfig, open_source
from crn_jax.errors import UserError


@pytest.fixture
def camvid(tmp_path):
    """Four pairs in CamVid's folders, 12x16; the photograph's first pixel tells which one it is."""
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / f"{split}annot").mkdir()
        for i in range(4):
            Image.fromarray(np.full((12, 16, 3), 10 * i, np.uint8)).save(tmp_path / split / f"{i}.png")
            Image.fromarray(np.full((12, 16), i, np.uint8)).save(tmp_path / f"{split}annot" / f"{i}.png")
    return tmp_path


def opened(root, source="camvid", size=(6, 8)):
    return open_source(DataConfig(source, str(root)), "train", size)


def test_camvid_pairs_by_name(shared_data):
    for split, count in (("train", 367), ("val", 101)):
        source = open_source(DataConfig("camvid", str(shared_data / "camvid")), split, (96, 128))
        assert len(source) == count and source.label_space == CAMVID
        example = source[count // 2]
        assert example["layout"].shape == (96, 128) and example["photograph"].shape == (96, 128, 3)


def test_cityscapes_in_its_official_folders(shared_data):
    source = open_source(DataConfig("cityscapes", str(shared_data / "cityscapes")), "train", (64, 128))
    assert source.names == [f"aachen_{i:06d}_000019" for i in range(3)]
    assert {0, 2, 10} <= set(np.unique(source[0]["layout"]))  # road, building, sky


def test_layouts_are_resized_to_nearest_and_photographs_antialiased(camvid):
    stripes = np.tile(np.array([0, 255], np.uint8), (12, 8))
    Image.fromarray(stripes[..., None].repeat(3, -1)).save(camvid / "train" / "0.png")
    Image.fromarray((stripes > 0).astype(np.uint8) * 11).save(camvid / "trainannot" / "0.png")
    example = opened(camvid)[0]
    assert set(np.unique(example["layout"])) <= {0, 11}
    assert abs(int(example["photograph"][3, 4, 0]) - 127) < 3


def test_streets_need_no_files():
    source = open_source(DataConfig("streets", num_scenes=5), "train", (16, 32))
    held_out = open_source(DataConfig("streets"), "val", (16, 32))
    assert len(source) == 5
    assert all((source[i]["layout"] != held_out[i]["layout"]).any() for i in range(5))
    with pytest.raises(IndexError):
        source[5]


def test_missing_partners_are_named(camvid):
    (camvid / "train" / "1.png").unlink()
    (camvid / "trainannot" / "2.png").unlink()
    with pytest.raises(UserError) as error:
        opened(camvid)
    assert "1 photographs without a layout: " in str(error.value) and "train/2.png" in str(error.value)
    assert "1 layouts without a photograph: " in str(error.value) and "trainannot/1.png" in str(error.value)


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(UserError, match=r"train: there is no such folder"):
        opened(tmp_path)
    with pytest.raises(UserError, match=r"--data.root"):
        open_source(DataConfig("camvid"), "train", (6, 8))
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match="no files match"):
        opened(tmp_path)


def test_a_layout_of_another_size_is_named(camvid):
    Image.fromarray(np.zeros((12, 20), np.uint8)).save(camvid / "trainannot" / "3.png")
    with pytest.raises(UserError, match=r"3\.png is 12x16, but its layout .*3\.png is 12x20"):
        opened(camvid)[3]


def test_another_aspect_ratio_is_refused_with_the_remedy(camvid):
    with pytest.raises(UserError, match=r"12x16 has another aspect ratio than the cascade's 8x16.*--cascade\.base"):
        opened(camvid, size=(8, 16))[0]


def order(source, first_step, steps, batch_size=2, seed=3, threads=2):
    batches = training_batches(source, batch_size, seed, first_step, threads)
    return [batch["photograph"][:, 0, 0, 0].tolist() for batch in itertools.islice(batches, steps)]


def test_the_order_is_a_function_of_seed_and_step(camvid):
    source = opened(camvid)
    whole = order(source, 0, 12)
    assert order(source, 5, 7) == whole[5:]
    assert order(source, 0, 12, threads=1) == whole
    assert order(source, 0, 12, seed=4) != whole
    epochs = [sorted(itertools.chain(*whole[i : i + 2])) for i in range(0, 12, 2)]
    assert epochs == [[0, 10, 20, 30]] * 6  # every epoch sees everything once
    assert len({str(whole[i : i + 2]) for i in range(0, 12, 2)}) > 1  # in another order


def test_a_process_decodes_only_its_rows_of_the_same_batches(camvid):
    source = opened(camvid)
    whole, opened_indices = order(source, 0, 6, batch_size=4), []

    class Recording(type(source)):
        def __getitem__(self, index):
            opened_indices.append(index)
            return super().__getitem__(index)

    recording = Recording(**vars(source))
    batches = training_batches(recording, 4, 3, threads=0, rows=[1, 2])
    part = [next(batches)["photograph"][:, 0, 0, 0].tolist() for _ in range(6)]
    assert part == [batch[1:3] for batch in whole]
    assert [10 * index for index in opened_indices] == list(itertools.chain(*part))


def test_mirrored_examples_are_drawn_anew_and_follow_from_the_step():
    source = open_source(DataConfig("streets", num_scenes=4), "train", (16, 32))
    plain, pair = training_batches(source, 4, 3), lambda **where: training_batches(source, 4, 3, flip=True, **where)
    drawn = []
    for straight, flipped in itertools.islice(zip(plain, pair()), 6):
        for row in range(4):
            mirrored = not (straight["photograph"][row] == flipped["photograph"][row]).all()
            drawn.append(mirrored)
            for key in straight:
                expected = straight[key][row, :, ::-1] if mirrored else straight[key][row]
                np.testing.assert_array_equal(flipped[key][row], expected)
    assert 4 <= sum(drawn) <= 20 and drawn[:4] != drawn[4:8] != drawn[8:12]
    later, part = list(itertools.islice(pair(), 6))[5], next(pair(first_step=5, rows=[1, 3]))
    np.testing.assert_array_equal(part["photograph"], later["photograph"][[1, 3]])


def test_an_error_in_a_thread_reaches_the_caller(camvid):
    Image.fromarray(np.full((12, 16), 99, np.uint8)).save(camvid / "trainannot" / "2.png")
    with pytest.raises(UserError, match=r"2\.png: label id 99 \(192 pixels\)"):
        order(opened(camvid), 0, 4)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 9])
def test_validation_sees_the_same_examples_in_full_batches_of_any_size(camvid, batch_size):
    source, seen = opened(camvid), []
    for batch in validation_batches(source, batch_size, spread(source, limit=50)):
        assert len(batch["layout"]) == batch_size
        seen += batch["photograph"][:, 0, 0, 0].tolist()
    assert seen == [0, 10, 20, 30] + [30] * (len(seen) - 4)
    assert spread(source, limit=2) == [0, 3]


def test_a_photograph_of_16_bits_is_refused(camvid):
    Image.fromarray(np.zeros((12, 16), np.uint16)).save(camvid / "train" / "0.png")
    with pytest.raises(UserError, match=r"0\.png: the photograph has more than 8 bits"):
        opened(camvid)[0]


def test_batches_come_whole(camvid):
    source = opened(camvid)
    assert steps_per_epoch(source, 3) == 1
    with pytest.raises(UserError, match="A batch of 5 does not fit a data set of 4"):
        steps_per_epoch(source, 5)
