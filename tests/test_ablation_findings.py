"""What an ablation says of its runs: from folders that are written by hand here, with numbers that can be checked by hand."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from crn_jax.ablation import Variant
from crn_jax.cascade import CascadeConfig
from crn_jax.data.sources import label_space_of
from crn_jax.errors import UserError
from crn_jax.experiment import to_json
from crn_jax.run import describe_run
from crn_jax.scores.statistics import Spread, few_images
from launch import ablate
from launch.ablation import findings
from launch.ablation.findings import collect, common_keys, curve, difference, scores_of, together
from launch.ablation.join import JUDGED, RESCORE, check_scoring, joined
from launch.ablation.record import FILE, Entry, read_record, record_of, write_record
from launch.ablation.summary import conclusions, figures_table, markdown, order_kept, still_falling
from launch.ablation.tasks import Budget, Task
from launch.ablation.verify import results_of, stored_part, unequal, unequal_means, unequal_results
from launch.common.terminal import console
from launch.evaluation.scoring import SCORES, means

pytestmark = pytest.mark.quick

DISTANCES = {
    "a": [10, 20, 30, 40, 25, 25],
    "b": [12, 22, 32, 42, 27, 27],
    "c": [9, 21, 31, 39, 24, 26],
    "d": [5, 15, 25, 35, 20, 20],
}


def evaluation(name: str, distances, chosen=()) -> dict:
    """Writes an evaluation as launch.evaluate does, with the scores that matter here."""

    def candidate(name: str, distances) -> dict:
        mean = float(np.mean(distances))
        scores = {"distance": {"value": mean, "low": mean - 1, "high": mean + 1}, "psnr": {"value": 50 - mean}}
        return {
            "name": name,
            "scores": scores | {"accuracy": {"value": 50.0}},
            "per_image": {"distance": np.asarray(distances, float).tolist()},
            "resources": {"parameters": 1000, "layouts_per_second": 5.0},
        }

    return {
        "title": "streets val, 4 examples",
        "versions": {"jax": "1"},
        "device": "abacus",
        "notes": ["Intervals: 95%.", *["Of a collection."] * bool(chosen)],
        "scores": [score._asdict() for score in SCORES],
        "candidates": [candidate(each, d) for each, d in [("photographs", [0] * len(distances)), (name, distances), *chosen]],
    }


def entry(folder, name: str, seed: int = 0, shift: float = 0, preferred=None, arguments: str = "demo") -> Entry:
    """A finished training of the variant `name`, whose distances are those of DISTANCES and `shift` more."""
    task = Task(name, folder / name / str(seed), tuple(arguments.split()), Budget(steps=40), ())
    task.folder.mkdir(parents=True)
    (task.folder / "evaluation").mkdir()
    found = evaluation(f"seed_{seed}", np.add(DISTANCES[name], shift))
    (task.folder / "evaluation" / "evaluation.json").write_text(json.dumps(found))
    lines = [{"step": 0, "validation": {"distance": 100.0}}, {"step": 20, "seconds_per_step": 3.0}]
    lines += [{"step": 20, "validation": {"distance": 50.0}}, {"step": 40, "seconds_per_step": 0.6}]
    lines += [{"step": 40, "validation": {"distance": 40.0}}]
    (task.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    while (command := task.outstanding()) is not None:
        task.done(command)
    return Entry(Variant(name, arguments, f"about {name}", preferred), seed, task, "finished")


def collected(entries) -> dict:
    return collect(record_of("suite", "Why?", entries, "40 steps", "python -m launch.ablate suite"))


def said(entries) -> str:
    return "\n".join(conclusions(collected(entries)))


@pytest.fixture(autouse=True)
def no_counting(monkeypatch):
    """tests/test_flops.py does that."""
    monkeypatch.setattr(findings, "operations", lambda *_: {"step_flop": 3e9, "synthesis_flop": 10**9})


def test_what_a_suite_collects(tmp_path):
    results = collected([entry(tmp_path, "a"), entry(tmp_path, "b", arguments="demo --cascade.no_norm")])
    assert results["title"] == "suite: streets val, 4 examples" and results["device"] == "abacus"
    assert [score["key"] for score in results["scores"]] == ["accuracy", "distance", "psnr"]
    assert results["photographs"]["distance"]["value"] == 0 and results["compared"] == "perceptual distance"
    a, b = results["variants"]
    assert a["scores"]["distance"] == {"value": 25, "low": 24, "high": 26} and a["difference"] is None and a["differs"] == []
    assert b["differs"] == ["cascade.norm: True, now False"]
    assert a["figures"] == {
        "step_flop": 3e9,
        "synthesis_flop": 1e9,
        "parameters": 1000,
        "layouts_per_second": 5,
        "seconds_per_step": 1.8,
        "minutes": pytest.approx((20 * 3 + 20 * 0.6) / 60),
    }
    (run,) = a["runs"]
    assert (run["seed"], run["status"], run["steps"], run["problem"]) == (0, "finished", 40, None)
    assert [command.split()[2] for command in run["commands"]] == ["launch.train", "launch.evaluate", "launch.synthesize"]
    json.dumps(results)


def test_curves_count_the_minutes_of_the_steps_before():
    lines = [
        {"step": 0, "mean_photograph": {"distance": 1.0}},
        {"step": 0, "validation": {"distance": 9.0}},
        {"step": 10, "seconds_per_step": 6.0},
        {"step": 15, "seconds_per_step": 12.0},
        {"step": 15, "validation": {"distance": 5.0}},
    ]
    assert curve(lines) == [[0, 0, 9], [15, 2, 5]]


def test_differences_are_paired():
    """Each of b's images is 2 farther than a's: no doubt at all, though each image is 10 from the next."""
    a, b = evaluation("x", DISTANCES["a"]), evaluation("y", DISTANCES["b"])
    apart = difference([(b, a)])
    assert apart.pop("seeds") == [2] and apart == pytest.approx({"value": 2, "low": 2, "high": 2, "nearer": 0, "images": 6})
    further = evaluation("y", np.add(DISTANCES["b"], 4))
    seeds = Spread(pooled=1.0, each=[1.0, 7.0], degrees=1)  # the variance of the difference is 8 / 2
    apart = difference([(b, a), (further, a)], "distance", seeds, 1)
    ends, wider = scipy.stats.t.ppf([0.025, 0.975], 1), few_images(6)
    assert apart.pop("seeds") == [2, 6] and apart.pop("nearer") == 0 and apart.pop("images") == 6
    assert apart == pytest.approx({"value": 4, "low": 4 + 2 * wider * ends[0], "high": 4 + 2 * wider * ends[1]}, rel=0.05)
    apart = difference([(evaluation("c", DISTANCES["c"]), a)])
    assert apart["value"] == 0 and -1 <= apart["low"] < 0 < apart["high"] <= 1


def test_several_seeds_stand_together():
    scores = [{"value": 1, "low": 0, "high": 2}, {"value": 3, "low": 1.5, "high": 4}]
    assert together(scores) == {"value": 2, "low": 0, "high": 4, "std": pytest.approx(2**0.5)}
    assert together([{"value": 1}, {"value": 3}]) == {"value": 2, "std": pytest.approx(2**0.5)}
    assert together([{"value": 1, "std": 9}]) == {"value": 1}  # that of KID is over subsets, not over seeds


def test_what_is_chosen_from_a_collection_has_scores_of_its_own():
    chosen = [("seed_0, best of 3", [1] * 4), ("seed_0, assembled", [2] * 4)]
    scores = scores_of(evaluation("seed_0", DISTANCES["a"], chosen))
    assert (scores["best_distance"]["value"], scores["assembled_distance"]["value"], scores["distance"]["value"]) == (1, 2, 25)
    alone = scores_of(evaluation("best of 3", DISTANCES["a"]))  # a folder may be called anything
    assert alone["best_distance"] == alone["assembled_distance"] == alone["distance"]


def test_of_collections_the_best_is_compared():
    """A collection is compared by its best image with a single image, and image by image with another collection."""
    three = evaluation("seed_0", DISTANCES["a"], [("seed_0, best of 3", [1, 2, 3, 4]), ("seed_0, assembled", [9] * 4)])
    six = evaluation("seed_0", DISTANCES["b"], [("seed_0, best of 6", [0, 1, 2, 3])])
    assert difference([(evaluation("seed_0", [2, 3, 4, 5]), three)])["seeds"] == [1]
    assert difference([(six, three)]) == {"value": -1, "low": -1, "high": -1, "nearer": 1, "images": 4, "seeds": [-1]}


def test_who_is_nearer_who_farther_and_who_cannot_be_told_apart(tmp_path):
    text = said([entry(tmp_path, name) for name in "abcd"])
    assert "Farther from the photographs than a by perceptual distance: b (+2.0; +2.0 to +2.0)." in text
    assert "Nearer to the photographs than a: d (-5.0; -5.0 to -5.0)." in text
    assert "Not clearly different from a: c (+0.0;" in text
    assert "Each variant was trained once" in text and "a (50.0 at step 20, then 40.0)" in text


def test_seeds_that_disagree_tell_nothing(tmp_path):
    """b is 2 farther with one seed and 1 nearer with the other: the images agree, the trainings do not."""
    entries = [entry(tmp_path, "a", seed) for seed in (0, 1)]
    entries += [entry(tmp_path, "b", seed, shift) for seed, shift in ((0, 0), (1, -3))]
    text = said(entries)
    ends = [0.5 + 1.5 * few_images(6) * end for end in scipy.stats.t.ppf([0.025, 0.975], 1)]  # of a paired t-test
    found = re.search(r"Not clearly different from a: b \(\+0.5; (\S+) to (\S+); seeds \+2.0, -1.0\)\.", text)
    assert found and [float(end) for end in found.groups()] == pytest.approx(ends, rel=0.1)
    assert "Each variant was trained once" not in text


def test_only_seeds_that_are_finished_count(tmp_path):
    entries = [entry(tmp_path, name, seed) for name in "ab" for seed in (0, 1)]
    (entries[3].task.folder / "task.json").unlink()
    results = collected(entries)
    assert results["variants"][1]["difference"]["seeds"] == [2] and results["seeds"] == [0, 1]
    text = "\n".join(conclusions(results))
    assert "Each variant was trained once" in text and "b (seed 1)" in text
    assert any("from the lowest end" in note for note in results["notes"])


def test_a_larger_budget_that_was_begun_does_not_show(tmp_path):
    one = entry(tmp_path, "a")
    with open(one.task.folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 60, "seconds_per_step": 100.0}\n{"step": 60, "validation": {"distance": 1.0}}\n')
    (run,) = collected([one])["variants"][0]["runs"]
    assert run["steps"] == 40 and run["curve"][-1][0] == 40


def test_images_of_what_is_not_finished_are_not_looked_at(tmp_path):
    """They may be half written."""
    one = entry(tmp_path, "a")
    (one.task.folder / "synthesized").mkdir()
    (one.task.folder / "synthesized" / "0.png").write_bytes(b"\x89PNG cut short")
    with pytest.raises(UserError):
        collected([one])
    (one.task.folder / "task.json").unlink()
    assert collected([one])["examples"] == []


def test_collections_have_their_scores_whoever_comes_first(tmp_path):
    entries = [entry(tmp_path, "a"), entry(tmp_path, "b")]
    path = entries[1].task.folder / "evaluation" / "evaluation.json"
    found = evaluation("seed_0", DISTANCES["b"], [("seed_0, best of 3", [1] * 6)])
    found["candidates"][1]["scores"]["between"] = {"value": 3.0}
    path.write_text(json.dumps(found))
    results = collected(entries)
    assert [score["key"] for score in results["scores"]][-3:] == ["between", "best_distance", "assembled_distance"]
    assert results["variants"][0]["scores"]["best_distance"]["value"] == 25
    assert results["notes"] == ["Intervals: 95%.", "Of a collection."]
    text = "\n".join(conclusions(results))
    assert "Nearer to the photographs than a: b (-24.0;" in text and "makes the nearest image nearer by chance alone" in text
    assert results["compared"] == "perceptual distance of the best of k"


def test_a_rescaling_of_lambda_that_never_came(tmp_path):
    entries = [entry(tmp_path, name) for name in "abc"]
    for each, epoch in zip(entries, (6, 60, 40)):
        given = dataclasses.replace(each.task.experiment, steps=40)
        description = describe_run(given, label_space_of(given.data), {"weights": "file"}, {"steps_per_epoch": epoch})
        (each.task.folder / "run.json").write_text(json.dumps(description))
    text = said(entries)
    assert "b: λ is rescaled after step 60, so none of the 40 steps used it." in text and "a: λ" not in text
    assert "c: λ is rescaled after step 40, so none of the 40 steps used it." in text


def test_what_still_falls_is_told_by_the_last_eighth():
    points = [[0, 0, 100.0], [60, 1, 50.0], [70, 2, 42.0], [79, 3, 40.1], [80, 4, 40.0]]
    assert still_falling(points) == "42.0 at step 70, then 40.0"
    assert still_falling([*points[:2], [71, 2, 40.3], [80, 4, 40.0]]) is None
    assert still_falling(points[:1]) is None


def test_whether_the_order_of_variants_has_settled():
    """After 31 of 40 steps the means over seeds are 3, 2 and 5; at the end they are 1, 2 and 4: one pair has changed places."""

    def curves(*seeds):
        return [[[0, 0, 9.0], [31, 1, then], [40, 2, last]] for then, last in seeds]

    kept = order_kept([curves((2.0, 1.0), (4.0, 1.0)), curves((2.0, 2.0)), curves((5.0, 4.0))])
    assert "2 of 3 pairs of variants had this order" in kept


def test_a_few_images_decide_nothing(tmp_path, monkeypatch):
    """With four images, however far apart."""
    assert "cannot decide" not in said([entry(tmp_path / "six", "a"), entry(tmp_path / "six", "b", shift=50)])
    monkeypatch.setattr(f"{__name__}.DISTANCES", {name: values[:4] for name, values in DISTANCES.items()})
    text = said([entry(tmp_path, "a"), entry(tmp_path, "b", shift=50)])
    assert "Not clearly different from a: b" in text and "4 images cannot decide a difference: 6 is the least." in text


def test_scores_that_one_seed_lacks_are_left_out():
    assert common_keys([{"fid": 1, "distance": 2}, {"distance": 3}]) == ["distance"] and common_keys([]) == []


def test_the_papers_order_is_counted_by_pairs(tmp_path):
    """Published: a, then b, c, d. By distance it is d, then a and c, a tie, then b: of six pairs only a before b stands."""
    preferred = {"b": 60.0, "c": 70.0, "d": 80.0}
    entries = [entry(tmp_path, n, preferred={"Cityscapes": preferred[n]} if n in preferred else None) for n in "abcd"]
    text = said(entries)
    assert "by how few people preferred the cascade (other photographs, longer training): a, b, c, d." in text
    assert "By perceptual distance: d, a, c, b; 1 of 6 pairs are in the paper's order." in text
    assert "By PSNR: d, a, c, b; 1 of 6 pairs" in text  # higher is better there
    assert "By pixel accuracy" not in text


def test_what_is_not_finished_is_not_compared(tmp_path):
    entries = [entry(tmp_path, "a"), entry(tmp_path, "b"), entry(tmp_path, "c")]
    (entries[1].task.folder / "task.json").unlink()
    entries[1].task.log.write_text("$ python\nerror: Not a finite number at step 7: loss.\n")
    entries[1] = entries[1]._replace(outcome="failed")
    (entries[2].task.folder / "task.json").unlink()
    results = collected(entries)
    _, b, c = results["variants"]
    assert b["runs"][0]["status"] == "failed" and b["runs"][0]["problem"] == "error: Not a finite number at step 7: loss."
    assert c["runs"][0]["status"] == "training" and c["scores"] == {} and c["difference"] is None
    assert "These trainings are not finished, so they are not compared: b (seed 0), c (seed 0)." in "\n".join(
        conclusions(results)
    )
    assert collected([entry(tmp_path / "more", "d")])["variants"][0]["runs"][0]["status"] == "finished"


def test_before_anything_is_finished(tmp_path):
    task = Task("a", tmp_path / "a", ("demo",))
    results = collected([Entry(Variant("a", "demo"), 0, task)])
    assert results["variants"][0]["runs"][0]["status"] == "waiting" and results["scores"] == []
    results["conclusions"] = list(conclusions(results))
    assert "not finished" in markdown(results)


def test_tables(tmp_path):
    results = collected([entry(tmp_path, "a"), entry(tmp_path, "b", preferred={"NYU": 91.4})])
    results["conclusions"] = list(conclusions(results))
    lines = markdown(results).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    scores, costs = rows[:4], rows[4:]
    assert scores[0] == [
        "",
        "perceptual distance",
        "PSNR, dB",
        "distance less the first's",
        "nearer than the first's, % of images",
        "seeds",
        "cascade preferred, NYU, %",
    ]
    assert scores[3] == ["b", "27 (26 to 28)", "23", "2 (2 to 2)", "0", "1", "91.4"]
    assert costs[2] == ["a", "1,000", "3", "1", "1.8", "1.2"]
    with console.capture() as capture:
        console.print(figures_table(results))
    assert capture.get().splitlines()[2].split() == ["a", "25", "25", "1"]


def test_operations_are_those_of_the_variant(tmp_path, monkeypatch):
    monkeypatch.undo()
    arguments = "demo --cascade.base 6 8 --cascade.widths 8 8 8 8".split()
    experiment = Task("a", tmp_path, tuple(arguments)).experiment
    counted = findings.operations(json.dumps(to_json(experiment)), "null")
    assert 0 < counted["synthesis_flop"] < counted["step_flop"]
    layers = CascadeConfig(20, (8, 8, 8, 8), (6, 8)).widths
    by_hand, features = 0, 0
    for i, maps in enumerate(layers):
        by_hand += 2 * 9 * 48 * 4**i * maps * (features + 20 + maps)
        features = maps
    assert counted["synthesis_flop"] == by_hand + 2 * 48 * 64 * 8 * 3


def test_a_record_verifies_until_one_score_of_one_image_is_changed(tmp_path):
    record = record_of("suite", "Why?", [entry(tmp_path, "a"), entry(tmp_path, "b")], "40 steps", "command")
    for training in record["trainings"]:
        for candidate in training["evaluation"]["candidates"]:
            candidate["scores"] = {"distance": means({"distance": np.array(candidate["per_image"]["distance"])})["distance"]}
    record["results"] = json.loads(json.dumps(stored_part(results_of(record))))
    assert unequal_results(record, tmp_path) == []
    record["trainings"][1]["evaluation"]["candidates"][1]["per_image"]["distance"][2] += 1
    apart = "\n".join(unequal_results(record, tmp_path))
    assert "b/0: seed_0.distance.value: 27, now 27.1667" in apart and "difference.value: 2, now 2.16667" in apart
    candidate = record["trainings"][1]["evaluation"]["candidates"][1]
    del candidate["per_image"]["distance"]
    assert list(unequal_means(candidate)) == ["seed_0.distance: the record lacks what it is computed from"]


@pytest.mark.parametrize("changed", [float("inf"), 1.0000001, "1", None])
def test_every_other_number_is_unequal(changed):
    assert list(unequal({"a": [1.0]}, {"a": [1.0 + 1e-12]})) == []
    assert len(list(unequal({"a": [changed]}, {"a": [1.0]}))) == 1


def test_damaged_metrics_are_noted(tmp_path):
    one = entry(tmp_path, "a")
    path = one.task.folder / "metrics.jsonl"
    path.write_bytes(bytes(100) + b"\n" + path.read_bytes())
    notes = collected([one])["notes"]
    assert notes[-1] == f"{path}: 1 line is damaged and left out: 1."


def recorded(path, entries, budget: str = "40 steps") -> Path:
    """Writes the record of these trainings, as launch.ablate does."""
    record = record_of("suite", "Why?", entries, budget, f"python -m launch.ablate {path.name}")
    write_record(path, record | {"results": stored_part(results_of(record))})
    return path


@pytest.fixture
def machines(tmp_path):
    """Two records of one suite: seed 0 of two variants, and seed 1 of these and of a third, whose seed 0 is not finished."""
    waiting = entry(tmp_path / "0", "c")
    (waiting.task.folder / "task.json").unlink()
    one = [entry(tmp_path / "0", "a"), entry(tmp_path / "0", "b"), waiting]
    other = [entry(tmp_path / "1", name, seed=1, shift=0.5) for name in "abc"]
    return one, other, recorded(tmp_path / "0.gz", one), recorded(tmp_path / "1.gz", other)


def test_records_of_two_machines_make_one(machines, tmp_path):
    """What is joined is what one machine would have found."""
    one, other, first, second = machines
    together_ = [entry for pair in zip(one, other) for entry in pair]
    expected = results_of(record_of("suite", "Why?", together_, "40 steps", "join"))
    for paths in ([first, second], [first, second, first]):
        assert results_of(joined(paths, "join")) == expected
    assert [len(variant["difference"]["seeds"]) for variant in expected["variants"][1:]] == [2, 1]
    turned = joined([second, first], "join")["trainings"]
    assert [(each["variant"]["name"], each["seed"]) for each in turned] == [(name, seed) for name in "abc" for seed in (0, 1)]


def test_a_training_that_one_machine_has_not_finished_is_taken_from_the_other(machines, tmp_path):
    one, _, first, _ = machines
    finished = recorded(tmp_path / "finished.gz", [entry(tmp_path / "again", "c")])
    for paths in ([first, finished], [finished, first]):
        by_name = {each["variant"]["name"]: each["status"] for each in joined(paths, "join")["trainings"]}
        assert by_name == {"a": "finished", "b": "finished", "c": "finished"}


def test_seeds_are_compared_with_the_same_seeds(machines):
    """The second machine's c has seed 1 alone, so that it is compared with seed 1 of a."""
    _, _, first, second = machines
    c = results_of(joined([first, second], "join"))["variants"][2]
    assert c["difference"]["seeds"] == [0.0]  # shifted as seed 1 of a is; 0.5 from its seed 0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda record: record.update(suite="other"), "cannot be joined. Their suite: 'suite', now 'other'"),
        (lambda record: record.update(budget="9 steps"), "Their budget: '40 steps', now '9 steps'"),
        (lambda record: record["trainings"][0].update(seed=0), "both have 'a, seed 0' with other scores"),
        (
            lambda record: record["trainings"][1]["experiment"].update(batch_size=7),
            "'b' was trained with two settings: batch_size: 1, now 7",
        ),
        (
            lambda record: record["trainings"][0]["lines"][-1].update(step=80),
            "'a' was trained with two settings: steps: 40, now 80",
        ),
        (
            lambda record: record["trainings"][2]["evaluation"].update(title="streets val, 9 examples"),
            'scored in different ways: images: "streets val, 4 examples", now "streets val, 9 examples"',
        ),
        (
            lambda record: record["trainings"][2]["evaluation"]["candidates"][0]["scores"]["accuracy"].update(value=51.0),
            "scored in different ways: photographs.accuracy: 50, now 51. Their segmenters differ. --without_judge",
        ),
    ],
)
def test_records_that_do_not_belong_together(machines, change, problem):
    *_, first, second = machines
    record = read_record(second)
    change(record)
    write_record(second, record)
    with pytest.raises(UserError, match=re.escape(problem)):
        joined([first, second], "join")


def test_records_of_two_judges_are_joined_without_what_the_judges_found(machines, tmp_path):
    """All other scores, and their differences, are those of two records of one judge."""
    *_, first, second = machines
    together_ = results_of(joined([first, second], "join"))
    record = read_record(second)
    for training in record["trainings"]:
        training["evaluation"]["candidates"][0]["scores"]["accuracy"]["value"] = 51.0
        training["evaluation"]["notes"].append("Segmenter: runs/other, step 9.")
    write_record(second, record)
    with pytest.raises(UserError, match="Their segmenters differ. --without_judge joins all scores but mIoU"):
        joined([first, second], "join")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as exit_:
        ablate.main(["join", str(first), str(second), "--without_judge", "--out", str(out)])
    assert exit_.value.code == 0
    results = read_record(out / FILE)["results"]
    assert not any("Segmenter" in note for note in results["notes"])
    assert any("mIoU and pixel accuracy were left out" in note for note in results["notes"])
    for before, now in zip(together_["variants"], results["variants"], strict=True):
        assert now["difference"] == before["difference"]
        assert now["scores"] == {key: score for key, score in before["scores"].items() if key not in JUDGED}
    for training in read_record(out / FILE)["trainings"]:
        for candidate in training["evaluation"]["candidates"] if training["evaluation"] else ():
            assert not set(JUDGED) & (set(candidate["scores"]) | set(candidate["per_image"]))
            assert candidate["confusion"] is None and candidate["class_iou"] is None


def test_trainings_of_one_ablation_that_were_scored_in_different_ways_are_refused(tmp_path):
    entries = [entry(tmp_path, "a"), entry(tmp_path, "b")]
    trainings = [(Path(each["folder"]), each) for each in record_of("suite", "Why?", entries, "40 steps", "")["trainings"]]
    check_scoring(trainings, RESCORE)
    trainings[1][1]["evaluation"]["vgg19"] = {"weights": "random", "sha256": "0"}
    with pytest.raises(UserError, match="a/0 and b/0 were scored in different ways: VGG-19.* Remove the folder evaluation"):
        check_scoring(trainings, RESCORE)


def test_a_record_from_anybody_may_hold_anything(machines, tmp_path, capsys):
    *_, first, second = machines
    record = read_record(second)
    record["versions"]["crn_jax"] = 7
    write_record(second, record)
    with pytest.raises(SystemExit) as exit_:
        ablate.main(["join", str(first), str(second), "--out", str(tmp_path / "out")])
    assert exit_.value.code == 0 and ", 7" in read_record(tmp_path / "out" / FILE)["versions"]["crn_jax"]


def test_the_command_that_joins(machines, tmp_path, capsys):
    *_, first, second = machines
    with pytest.raises(SystemExit) as exit_:
        ablate.main(["join", str(first), str(second), "--out", str(tmp_path / "out")])
    assert exit_.value.code == 0
    assert {"ablation.html", "ablation.md", "ablation.json", FILE} <= {path.name for path in (tmp_path / "out").iterdir()}
    record = read_record(tmp_path / "out" / FILE)
    assert record["command"].startswith("python -m launch.ablate join")
    assert record["results"] == stored_part(json.loads(json.dumps(results_of(record))))
    broken = read_record(first)
    del broken["trainings"][0]["evaluation"]["candidates"][1]  # a record may come from anybody
    write_record(tmp_path / "broken.gz", broken)
    with pytest.raises(SystemExit) as exit_:
        ablate.main(["join", str(tmp_path / "broken.gz"), "--out", str(tmp_path / "third")])
    assert exit_.value.code == 2 and "broken.gz: the results cannot be computed" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit) as exit_:
        ablate.main(["join", str(tmp_path / "none.gz"), "--out", str(tmp_path / "other")])
    assert exit_.value.code == 2 and "there is no such file" in capsys.readouterr().out
