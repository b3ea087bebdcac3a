"""Carries out an ablation: `python -m launch.ablate SUITE --data DIR`. ABLATIONS in configs.py lists the suites.

`python -m launch.ablate verify RECORD` computes the page of one again, from its record. `python -m launch.ablate join RECORD
RECORD` makes one page of the records of several machines.

launch.train, launch.evaluate and launch.synthesize train, score and show every variant, each in a process of its own. If it is
stopped, give the same command again: it continues there, and repeats nothing that is finished.
"""

import dataclasses
import itertools
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import jax
import rich.table
import tyro

from crn_jax.ablation import Ablation
from crn_jax.errors import UserError, did_you_mean
from launch.ablation.beforehand import check_comparable, check_files, check_judge, check_words
from launch.ablation.join import RESCORE, check_scoring, joined
from launch.ablation.record import FILE, Entry, read_record, record_of, write_record
from launch.ablation.summary import figures_table, markdown
from launch.ablation.tasks import Budget, Task, shown, trains_with_segmenter, with_segmenter
from launch.ablation.verify import computable, numbers_in, results_of, stored_part, unequal_results, unequal_scores
from launch.ablation.workers import Workers, check_jobs, claimed
from launch.common.catalogue import ablations, take_configs
from launch.common.exit_status import FAILED, TRY_AGAIN
from launch.common.jax_setup import set_up_jax
from launch.common.names import command_line, slug
from launch.common.options import BucketPath, read_options
from launch.common.output import staged, write_json
from launch.common.page import write_page
from launch.common.terminal import command, console

SHOWN = 20
"""The number of differences that `verify` prints."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Trains and scores the variants of a suite under the same budget, data order and evaluation."""

    suite: Annotated[str, tyro.conf.Positional]
    """The name of the suite, as in ABLATIONS of configs.py."""
    data: Annotated[str | None, tyro.conf.arg(aliases=["--data.root"])] = None
    """The folder of the data set. Streets need none."""
    budget: str | None = None
    """The budget of each training: steps, such as 3000, or minutes of training steps, such as 30m. The first 60 steps turn
    minutes into a number of steps. Default: the length that each experiment says."""
    seeds: int = 1
    """The number of trainings of each variant, with as many seeds."""
    first_seed: int = 0
    """The first of the seeds. Another machine may train others; `python -m launch.ablate join` puts the records together."""
    only: tuple[str, ...] = ()
    """The names of the variants to train and score. Default: all."""
    jobs: int = 1
    """The number of trainings at a time, each on an accelerator of its own. A single job takes all accelerators. Each task of a
    SLURM array does its part of the trainings."""
    out: Path | None = None
    """The folder for runs and results. Default: runs/ablations/SUITE."""
    segmenter: BucketPath | None = None
    """A run of launch.train segmenter_*, to train with and to judge by. Default: the suite's own segmenter is trained first."""
    judge: str | None = None
    """Another judge than --segmenter: a run of launch.train segmenter_*, the weights of a published judge, or
    package.module:factory (see launch.evaluate)."""
    train: str = ""
    """More arguments of launch.train, for all trainings and the segmenter's: --train="--data.cache DIR --batch_size 4"."""
    inception: Path | None = None
    """The weights for FID and KID (see launch.evaluate)."""
    lpips: tuple[Path, Path] | None = None
    """The two files for LPIPS (see launch.evaluate)."""
    vgg: Annotated[str | None, tyro.conf.arg(aliases=["--vgg.weights"])] = None
    """The file of VGG-19 weights. Default: launch.train looks for it."""
    examples: int | None = None
    """The largest number of held-out examples to score. Default: all."""
    configs: Path | None = None
    """A file of your own experiments, recipes and ablations. Default: $CRN_JAX_CONFIGS."""
    dry_run: bool = False
    """Print the commands, and run none."""


@dataclasses.dataclass(frozen=True)
class Verify:
    """Verifies a record of launch.ablate: computes the figures of its page again, from the scores of single images."""

    record: Annotated[Path, tyro.conf.Positional]
    """The file record.json.gz of an ablation."""
    runs: Path | None = None
    """The folder of the ablation. Its runs are scored again, too."""


@dataclasses.dataclass(frozen=True)
class Join:
    """Joins records of one suite into one page, such as of seeds or variants that were trained on different machines."""

    records: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """The files record.json.gz of ablations of one suite with the same budget."""
    out: Path
    """The folder for the page, and for the record of all trainings."""
    without_judge: bool = False
    """Leave out mIoU and pixel accuracy, so that records of different segmenters can be joined."""


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line and works through the suite, verifies a record, or joins records."""
    with command():
        given = sys.argv[1:] if arguments is None else arguments
        rest = take_configs(given)
        if rest[:1] == ["verify"]:
            sys.exit(verify(read_options(Verify, "ablate verify", rest[1:])))
        if rest[:1] == ["join"]:
            sys.exit(join(read_options(Join, "ablate join", rest[1:]), command_line("ablate", *given)))
        if not rest or rest[0] in ("-h", "--help"):
            list_suites()
        asked: Arguments = read_options(Arguments, "ablate", rest)
        set_up_jax()
        jax.config.update("jax_platforms", "cpu")  # the accelerators are for the trainings; this process only looks at shapes
        status = ablate(asked, command_line("ablate", *given))
        sys.exit(status)


def list_suites() -> None:
    """Prints the names and questions of all suites."""
    table = rich.table.Table(box=None, show_header=False)
    for name, ablation in ablations().items():
        table.add_row(name, f"{ablation.question} {len(ablation.variants)} variants.")
    table.add_row("verify RECORD", "Computes the page of an ablation again, from its record.")
    table.add_row("join RECORD ...", "Makes one page of the records of several machines.")
    console.print(table)


def ablate(asked: Arguments, command_line: str) -> int:
    """Works through the suite. Returns the exit status: 0, `FAILED` if a training failed, or `TRY_AGAIN` if stopped."""
    ablation = suite(asked)
    out, budget = asked.out or Path("runs/ablations") / asked.suite, Budget.parse(asked.budget)
    segmenter, entries = plan(asked, ablation, budget, out)
    chosen = tasks_of_this_job([entry.task for entry in entries if not asked.only or entry.variant.name in asked.only])
    if asked.dry_run:
        for task in (*segmenter, *chosen):
            for line in itertools.islice(task.commands(), None if budget.minutes is None else 1):
                console.print(shown(line))
        return 0
    check_files((asked.segmenter, asked.inception, *(asked.lpips or ())))
    if asked.judge:
        check_judge(asked.judge, entries[0].task.experiment)

    def report() -> dict[str, Any]:
        with claimed(out, wait=True):  # each task of a SLURM array reports, and the last one has read all that is finished
            reached = [entry._replace(outcome=workers.outcomes.get(entry.task.folder)) for entry in entries]
            record = record_of(asked.suite, ablation.question, reached, str(budget), command_line, ablation.classes)
            check_scoring([(out / training["folder"], training) for training in record["trainings"]], RESCORE)
            return write_results(out, record)

    with Workers(asked.jobs, out / "accelerators") as workers:
        workers.work(segmenter, lambda: None)
        if all(workers.outcomes.get(task.folder) == "finished" for task in segmenter):
            report()  # if the results cannot be written, this fails before the trainings
            workers.work(chosen, report)
            tell(report(), out)
    if workers.stopped.is_set() or "stopped" in workers.outcomes.values():
        return TRY_AGAIN
    return FAILED if "failed" in workers.outcomes.values() else 0


def write_results(out: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Returns the results of a record, and writes them as JSON, as Markdown and as a page, and with the record."""
    results = results_of(record)
    with staged(out) as folder:
        write_record(folder / FILE, record | {"results": stored_part(results)})
        write_json(folder / "ablation.json", results)
        (folder / "ablation.md").write_text(markdown(results), "utf-8", "backslashreplace")
        write_page("ablation.html", results, folder / "ablation.html")
    return results


def tell(results: dict[str, Any], out: Path) -> None:
    """Prints the scores and conclusions."""
    console.print(figures_table(results))
    for sentence in results["conclusions"]:
        console.print(f"- {sentence}")
    console.print(f"{out / 'ablation.html'} shows it with curves and images; {FILE} beside it lets others verify it.")


def verify(asked: Verify) -> int:
    """Verifies a record, and prints what differs. Returns the exit status: 0, or `FAILED` if something differs."""
    set_up_jax()
    record = read_record(asked.record)
    apart = unequal_results(record, asked.record)
    console.print(f"{asked.record}: {numbers_in(record['results']):,} numbers computed again, {len(apart)} differ.")
    for line in apart[:SHOWN]:
        console.print(f"  {line}")
    for name, differing in unequal_scores(record, asked.runs) if asked.runs else ():
        console.print(f"  {name}: {', '.join(differing) or 'the same scores of all images'}")
        apart += differing
    return FAILED if apart else 0


def join(asked: Join, command_line: str) -> int:
    """Joins records into one page. Returns the exit status 0."""
    set_up_jax()
    if (asked.out / FILE).resolve() in {path.resolve() for path in asked.records}:
        raise UserError(
            f"--out {asked.out}: the record of all trainings would replace one of the records. Choose another folder."
        )
    with computable(*asked.records):
        record = joined(asked.records, command_line, judge=not asked.without_judge)
        results = write_results(asked.out, record)
    tell(results, asked.out)
    return 0


def suite(asked: Arguments) -> Ablation:
    """Returns the suite that is asked for, and checks the rest of the command line.

    Raises:
      UserError: if there is no such suite or variant, or if a number is below 1.
    """
    known = ablations()
    if asked.suite not in known:
        raise UserError(f"There is no suite '{asked.suite}'.{did_you_mean(asked.suite, known)} Known: {', '.join(known)}.")
    ablation = known[asked.suite]
    names = [variant.name for variant in ablation.variants]
    for name in asked.only:
        if name not in names:
            raise UserError(f"'{asked.suite}' has no variant '{name}'.{did_you_mean(name, names)} Known: {', '.join(names)}.")
    if min(asked.seeds, asked.jobs, 1 if asked.examples is None else asked.examples) < 1:
        raise UserError(f"--seeds, --jobs and --examples must be at least 1: {asked.seeds}, {asked.jobs}, {asked.examples}.")
    check_jobs(asked.jobs)
    return ablation


def plan(asked: Arguments, ablation: Ablation, budget: Budget, out: Path) -> tuple[list[Task], list[Entry]]:
    """Returns the task of the suite's own segmenter, if that is needed, and an entry for each variant and seed."""
    root = [] if asked.data is None else ["--data.root", asked.data]
    vgg = ["--vgg.weights", asked.vgg] if asked.vgg else []
    common = [*root, *words_of(asked.train)]
    trainings = [(*shlex.split(variant.arguments), *common, *vgg) for variant in ablation.variants]
    segmenter, own = asked.segmenter, []
    needed = asked.judge is None or any(map(trains_with_segmenter, trainings))
    if segmenter is None and ablation.segmenter is not None and needed:
        segmenter = out / "segmenter"
        own = [Task("segmenter", segmenter, (*shlex.split(ablation.segmenter), *common))]
    check_words(ablation.variants, words_of(asked.train), budget != Budget(), segmenter=bool(own))
    score = scoring(asked, asked.judge or segmenter, ablation.classes)
    entries = []
    for variant, arguments in zip(ablation.variants, trainings):
        arguments = with_segmenter(arguments, segmenter)
        for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
            name, folder = f"{variant.name}, seed {seed}", out / slug(variant.name) / f"seed_{seed}"
            task = Task(name, folder, (*arguments, "--seed", str(seed)), budget, (*score, *vgg))
            entries.append(Entry(variant, seed, task))
    check_comparable(ablation, [entry for entry in entries if entry.seed == asked.first_seed])
    return own, entries


def words_of(train: str) -> list[str]:
    """Splits the option --train into words, as a shell would.

    Raises:
      UserError: if a quotation mark has no partner.
    """
    try:
        return shlex.split(train)
    except ValueError as error:
        raise UserError(f"--train {train}: {error}. Close every quotation mark.") from error


def scoring(asked: Arguments, judge: str | Path | None, classes: tuple[str, ...]) -> list[str]:
    """Returns the arguments that launch.evaluate needs besides a run."""
    score = ["--segmenter", str(judge)] if judge else []
    score += ["--inception", str(asked.inception)] if asked.inception else []
    score += ["--lpips", *map(str, asked.lpips)] if asked.lpips else []
    score += ["--classes", *classes] if classes else []
    return score + (["--examples", str(asked.examples)] if asked.examples else [])


def tasks_of_this_job(tasks: list[Task]) -> list[Task]:
    """Returns the tasks for this job of a SLURM array, or all tasks outside such an array."""
    environment = os.environ
    if "SLURM_ARRAY_TASK_COUNT" not in environment:  # the number alone, which scripts set, is no array
        return tasks
    number, first, last, step, count = (
        int(environment[f"SLURM_ARRAY_TASK_{key}"]) for key in ("ID", "MIN", "MAX", "STEP", "COUNT")
    )
    if (last - first) // step + 1 != count:
        raise UserError(
            f"The {count} numbers of this array, from {first} to {last}, have no common step, so some trainings would be left "
            f"out. Give --array a range, such as 0-{count - 1}. Finished trainings are not repeated."
        )
    return tasks[(number - first) // step :: count]


if __name__ == "__main__":
    main()
