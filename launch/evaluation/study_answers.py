"""What the answers to a study (study.py) say: shares of preference with intervals and p-values, as the paper's Table 1."""

import dataclasses
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import cattrs
import numpy as np
from rich.markup import escape
from rich.table import Table
from scipy.stats import binomtest

from crn_jax.errors import UserError
from launch.evaluation.study import PHOTOGRAPH, RESULT_FORMAT

_LATE_MS = 50  # beyond what a frame or two of a slow screen take


@dataclasses.dataclass(frozen=True)
class _Answer:
    """One choice, times in milliseconds; `asked_seconds` is None where a pair stays until the answer."""

    pair: int
    left: str
    right: str
    example: int
    sentinel: bool
    asked_seconds: float | None
    shown_ms: float
    chosen: str
    response_ms: float


@dataclasses.dataclass(frozen=True)
class _Result:
    """What the page saves for a participant: `answers` as they came, to `pairs` pairs; `seed` drew their order and sides."""

    study: str
    title: str
    methods: tuple[str, ...]
    pairs: int
    participant: str
    started: str
    seed: int
    answers: tuple[_Answer, ...]

    def unfit(self, sentinel_errors: int) -> str:
        """Why the participant is left out, or an empty string."""
        if len(self.answers) < self.pairs:
            return f"only {len(self.answers)} of {self.pairs} pairs answered"
        right = [answer.chosen == PHOTOGRAPH for answer in self.answers if answer.sentinel]
        wrong = len(right) - sum(right)
        return f"{wrong} of {len(right)} sentinels wrong" if wrong > sentinel_errors else ""


class Share(NamedTuple):
    """How often people preferred `first` to `second`, of a timed study when shown for `seconds`.

    `interval` is Wilson's, 95%, and `p_value` that of the exact two-sided binomial test against one half; both take all answers
    as independent. Those of one participant are not: `over_participants` is a 95% bootstrap interval over whole participants
    (percentiles of 10,000 draws), None for a single one, and too narrow for fewer than about ten. All three take repeated
    answers to one pair as independent, though all participants get the same pairs: how far other layouts would move the share,
    none of them tells. Who counts, sentinels decide: the photograph against an untrained cascade (the authors': against a
    baseline, which is harder).
    """

    first: str
    second: str
    seconds: float | None
    chosen: int
    answers: int
    interval: tuple[float, float]
    p_value: float
    over_participants: tuple[float, float] | None

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return self.chosen / self.answers


class Analysis(NamedTuple):
    """A study's outcome: who counts, who was left out and why, how many `late` answers were, and the shares.

    An answer is late, and does not count, if the pair stood on the screen for over 0.05 s longer than asked.
    """

    study: str
    title: str
    participants: list[str]
    left_out: dict[str, str]
    late: int
    shares: list[Share]


def analyse(files: Sequence[Path], sentinel_errors: int = 0) -> Analysis:
    """Reads the files that participants saved.

    Left out, and reported, are participants with more than `sentinel_errors` wrong answers on sentinels (the paper does not say
    how many it let pass) and those who did not finish: the page saves finished studies only.

    Raises:
      UserError: for files that are no results, of several studies or of one participant twice, and if nobody is left.
    """
    results = {}
    for file in files:
        result = _read(file)
        first, first_file = next(iter(results.values()), (result, file))
        if result.study != first.study:
            raise UserError(
                f"{file} is of study {result.study} ('{result.title}'), {first_file} of {first.study} ('{first.title}'): "
                "analyse one study at a time."
            )
        if result.participant in results:
            raise UserError(
                f"{file} and {results[result.participant][1]} are both of participant '{result.participant}': leave one out, "
                "or, if they are two people, change the participant in one."
            )
        results[result.participant] = result, file
    left_out = {name: why for name, (result, _) in results.items() if (why := result.unfit(sentinel_errors))}
    kept = [result for name, (result, _) in results.items() if name not in left_out]
    if not kept:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items()) or "no files were given"
        raise UserError(f"No participant's answers can be counted ({reasons}).")

    names = [PHOTOGRAPH, *kept[0].methods]
    counts, late = {}, 0
    for who, result in enumerate(kept):
        for answer in result.answers:
            if answer.sentinel:
                continue
            if answer.asked_seconds and answer.shown_ms > 1000 * answer.asked_seconds + _LATE_MS:
                late += 1
                continue
            first, second = sorted((names.index(answer.left), names.index(answer.right)))
            key = first, second, answer.asked_seconds
            counts.setdefault(key, np.zeros((len(kept), 2), int))[who] += answer.chosen == names[first], 1
    shares = [_share(names[key[0]], names[key[1]], key[2], counts[key]) for key in sorted(counts)]
    return Analysis(kept[0].study, kept[0].title, [result.participant for result in kept], left_out, late, shares)


def _read(file: Path) -> _Result:
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as JSON ({error}). Give the files that the study's page saved.") from error
    if not isinstance(content, dict) or content.get("format") != RESULT_FORMAT:
        raise UserError(f"{file} is not a study's result: its format is not '{RESULT_FORMAT}'. Give those that the page saved.")
    try:
        result = cattrs.structure(content, _Result)
    except cattrs.BaseValidationError as error:
        raise UserError(f"{file} is damaged: {'; '.join(cattrs.transform_error(error, 'result'))}.") from error
    answered = set()
    for answer in result.answers:
        shown = {answer.left, answer.right}
        known = PHOTOGRAPH in shown if answer.sentinel else shown <= {PHOTOGRAPH, *result.methods}
        if not known or len(shown) < 2 or answer.chosen not in shown or answer.pair not in set(range(result.pairs)) - answered:
            raise UserError(f"{file} is damaged: {answer} is no answer to one of {result.pairs} pairs, each asked once.")
        answered.add(answer.pair)
    return result


def _share(first: str, second: str, seconds: float | None, counts: np.ndarray) -> Share:
    """From `counts` [participants, 2]: how often each chose the first, of how many answers."""
    counts = counts[counts[:, 1] > 0]
    chosen, answers = counts.sum(0).tolist()
    test = binomtest(chosen, answers)
    over_participants = None
    if len(counts) > 1:
        drawn = counts[np.random.default_rng(0).integers(len(counts), size=(10_000, len(counts)))].sum(1)
        over_participants = tuple(np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975]).tolist())
    interval = tuple(float(end) for end in test.proportion_ci(method="wilson"))
    return Share(first, second, seconds, chosen, answers, interval, float(test.pvalue), over_participants)


def study_table(analysis: Analysis) -> Table:
    """Percentages as in the paper: a column a method (Table 1), or one a duration, and a section a method (Figure 4)."""
    timed = any(share.seconds is not None for share in analysis.shares)
    rows, columns = {}, {}
    for share in analysis.shares:
        row = f"{share.first} preferred to" + f" {share.second}" * timed
        rows.setdefault(row, {})[share.seconds or share.second] = share
        columns[share.seconds or share.second] = f"{Fraction(share.seconds)} s" if timed else share.second
    left_out = "".join(f"\nleft out: {name}, {reason}" for name, reason in analysis.left_out.items())
    late = f"\n{analysis.late} answers left out: shown too long" if analysis.late else ""
    table = Table(
        "",
        title=escape(analysis.title),
        caption=escape(
            f"{len(analysis.participants)} participant(s){left_out}{late}\n95%: Wilson's interval, all answers as independent; "
            "over people: bootstrap of participants. p: exact two-sided binomial test against 50%."
        ),
        caption_justify="left",
    )
    for heading in columns.values():
        table.add_column(escape(heading), justify="right")
    lines = {
        "95%": lambda share: _percent(share.interval),
        "95% over people": lambda share: _percent(share.over_participants),
        "p": lambda share: "< 0.001" if share.p_value < 0.001 else f"{share.p_value:.3f}",
        "answers": lambda share: str(share.answers),
    }
    for row, shares in rows.items():
        for name, text in {row: lambda share: f"[bold]{share.share:.1%}[/]", **lines}.items():
            table.add_row(escape(name), *(text(shares[column]) if column in shares else "" for column in columns))
        table.add_section()
    return table


def _percent(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{100 * interval[0]:.0f}-{100 * interval[1]:.0f}"


def to_json(analysis: Analysis) -> dict[str, Any]:
    """An analysis as plain dicts, lists, numbers and strings; a share also has its `share`."""
    return analysis._asdict() | {"shares": [share._asdict() | {"share": share.share} for share in analysis.shares]}
