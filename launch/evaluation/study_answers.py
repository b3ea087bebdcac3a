"""Analyses the answers to a study (study.py): how often people preferred each method, with intervals and p-values."""

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import cattrs
import numpy as np
from rich.table import Table
from rich.text import Text

from crn_jax.errors import UserError
from crn_jax.formats.json_file import read_json
from crn_jax.formats.strict_types import strict_converter
from launch.evaluation.study import PHOTOGRAPH, RESULT_FORMAT

_converter = strict_converter()
_LATE_MS = 50  # more than one or two frames of a slow screen take


@dataclasses.dataclass(frozen=True)
class _Answer:
    """One choice, with times in milliseconds. `asked_seconds` is None if the pair was shown until the answer."""

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
    """What the page saves for a participant: the `answers` in order, out of `pairs`. `seed` drew the order and the sides."""

    study: str
    title: str
    methods: tuple[str, ...]
    pairs: int
    participant: str
    started: str
    seed: int
    answers: tuple[_Answer, ...]

    def unfit(self, sentinel_errors: int) -> str:
        """Returns why the participant is left out, or an empty string."""
        if len(self.answers) < self.pairs:
            return f"only {len(self.answers)} of {self.pairs} pairs answered"
        right = [answer.chosen == PHOTOGRAPH for answer in self.answers if answer.sentinel]
        wrong = len(right) - sum(right)
        return f"{wrong} of {len(right)} sentinels wrong" if wrong > sentinel_errors else ""


class Share(NamedTuple):
    """How often people preferred `first` to `second`. In a timed study, both were shown for `seconds`.

    `interval` is Wilson's 95% interval, and `p_value` is that of the exact two-sided binomial test against one half. Both
    assume that all answers are independent, but answers of one participant are not. `over_participants` is therefore a 95%
    bootstrap interval over whole participants (percentiles of 10,000 draws). It is None for a single participant, and too
    narrow for fewer than about ten. All participants get the same pairs, so no interval tells how far other layouts would
    move the share.
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
        """The share of the answers that preferred `first`, from 0 to 1."""
        return self.chosen / self.answers


class Analysis(NamedTuple):
    """A study's outcome: the participants who count, those left out and why, the number of late answers, and the shares.

    An answer is late, and does not count, if the pair was on the screen for over 0.05 s longer than asked.
    """

    study: str
    title: str
    participants: list[str]
    left_out: dict[str, str]
    late: int
    shares: list[Share]


def analyse(files: Sequence[Path], sentinel_errors: int = 0) -> Analysis:
    """Analyses the files that participants saved.

    Participants who did not finish are left out, and so are those with more than `sentinel_errors` wrong answers to sentinels.
    The paper does not say how many errors it allowed. Sentinels show the photograph beside an untrained cascade's image; the
    authors' showed it beside a baseline's, which is harder.

    Raises:
      UserError: if a file is no result of a study, if results are of several studies or of one participant twice, or if no
        participant is left.
    """
    results: dict[str, tuple[_Result, Path]] = {}
    for file in files:
        result = _read(file)
        one, first_file = next(iter(results.values()), (result, file))
        if result.study != one.study:
            raise UserError(
                f"{file} is of study {result.study} ('{result.title}'), but {first_file} is of study {one.study} "
                f"('{one.title}'). Analyse one study at a time."
            )
        if result.participant in results:
            raise UserError(
                f"{file} and {results[result.participant][1]} are both of participant '{result.participant}'. Leave one out. "
                "If they are two people, change the participant in one file."
            )
        results[result.participant] = result, file
    left_out = {name: why for name, (result, _) in results.items() if (why := result.unfit(sentinel_errors))}
    kept = [result for name, (result, _) in results.items() if name not in left_out]
    if not kept:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items()) or "no files were given"
        raise UserError(f"No participant's answers can be counted ({reasons}).")

    names = [PHOTOGRAPH, *kept[0].methods]
    counts: dict[tuple[int, int, float | None], np.ndarray] = {}  # [participants, 2], see _share
    late = 0
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
    ordered = sorted(counts, key=lambda key: (key[0], key[1], key[2] or 0))
    shares = [
        _share(names[first], names[second], seconds, counts[first, second, seconds]) for first, second, seconds in ordered
    ]
    return Analysis(kept[0].study, kept[0].title, [result.participant for result in kept], left_out, late, shares)


def _read(file: Path) -> _Result:
    content = read_json(file, "Give the files that the study's page saved.", object, sealed=False)
    if not isinstance(content, dict) or content.get("format") != RESULT_FORMAT:
        raise UserError(
            f"{file} is not a study's result: its format is not '{RESULT_FORMAT}'. Give the files that the page saved."
        )
    try:
        result = _converter.structure(content, _Result)
    except cattrs.BaseValidationError as error:
        raise UserError(f"{file} is damaged: {'; '.join(cattrs.transform_error(error, 'result'))}.") from error
    answered: set[int] = set()
    for answer in result.answers:
        shown = {answer.left, answer.right}
        known = PHOTOGRAPH in shown if answer.sentinel else shown <= {PHOTOGRAPH, *result.methods}
        asked = answer.pair in range(result.pairs) and answer.pair not in answered
        if not known or len(shown) < 2 or answer.chosen not in shown or not asked:
            raise UserError(f"{file} is damaged: {answer} does not answer one of {result.pairs} pairs, each asked once.")
        answered.add(answer.pair)
    return result


def _share(first: str, second: str, seconds: float | None, counts: np.ndarray) -> Share:
    """Makes a share of `counts` `[participants, 2]`: how often each participant chose the first, and the number of answers."""
    counts = counts[counts[:, 1] > 0]
    chosen, answers = counts.sum(0).tolist()
    from scipy.stats import binomtest

    test = binomtest(chosen, answers)
    over_participants = None
    if len(counts) > 1:
        drawn = counts[np.random.default_rng(0).integers(len(counts), size=(10_000, len(counts)))].sum(1)
        shares = drawn[:, 0] / drawn[:, 1]
        over_participants = float(np.quantile(shares, 0.025)), float(np.quantile(shares, 0.975))
    low, high = test.proportion_ci(method="wilson")
    return Share(first, second, seconds, chosen, answers, (float(low), float(high)), float(test.pvalue), over_participants)


def study_table(analysis: Analysis) -> Table:
    """Returns the shares in percent, as in the paper.

    An unlimited study has a column for each method (Table 1). A timed study has a column for each duration, and a section for
    each method (Figure 4).
    """
    rows: dict[str, dict[float | str, Share]] = {}
    columns: dict[float | str, str] = {}
    for share in analysis.shares:
        row = f"{share.first} preferred to" + (f" {share.second}" if share.seconds else "")
        rows.setdefault(row, {})[share.seconds or share.second] = share
        columns[share.seconds or share.second] = f"{Fraction(share.seconds)} s" if share.seconds else share.second
    left_out = "".join(f"\nleft out: {name}, {reason}" for name, reason in analysis.left_out.items())
    late = f"\n{analysis.late} answers left out: shown too long" if analysis.late else ""
    table = Table(
        "",
        title=analysis.title,
        caption=(
            f"{len(analysis.participants)} participant(s){left_out}{late}\n95%: Wilson's interval, which assumes independent "
            "answers. Over people: bootstrap over participants. p: exact two-sided binomial test against 50%."
        ),
        caption_justify="left",
    )
    for heading in columns.values():
        table.add_column(heading, justify="right")
    lines: dict[str, Callable[[Share], str]] = {
        "95%": lambda share: _percent(share.interval),
        "95% over people": lambda share: _percent(share.over_participants),
        "p": lambda share: "< 0.001" if share.p_value < 0.001 else f"{share.p_value:.3f}",
        "answers": lambda share: str(share.answers),
    }
    for row, shares in rows.items():
        values: dict[str, Callable[[Share], Text | str]] = {row: lambda share: Text(f"{share.share:.1%}", "bold")}
        for name, text in (values | lines).items():
            table.add_row(name, *(text(shares[column]) if column in shares else "" for column in columns))
        table.add_section()
    return table


def _percent(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{100 * interval[0]:.0f}-{100 * interval[1]:.0f}"


def to_json(analysis: Analysis) -> dict[str, Any]:
    """Returns an analysis as plain dicts, lists, numbers and strings. Each of its shares also has its `share`, from 0 to 1."""
    return analysis._asdict() | {"shares": [share._asdict() | {"share": share.share} for share in analysis.shares]}
