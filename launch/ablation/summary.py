"""Tells the results of an ablation (see `findings.collect`) in sentences and in tables."""

import functools
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import rich.table

from crn_jax.errors import counted
from launch.evaluation.ranking import FEWEST
from launch.evaluation.score_tables import number

_BESIDE = ("accuracy", "miou_void", "accuracy_void")


def conclusions(results: dict[str, Any]) -> Iterator[str]:
    """Yields what the results show, in sentences, and what they do not show."""
    reference, *others = results["variants"]
    missing = [
        f"{v['name']} (seed {run['seed']})" for v in (reference, *others) for run in v["runs"] if run["status"] != "finished"
    ]
    if missing:
        yield f"These trainings are not finished, so they are not compared: {', '.join(missing)}."
    compared = [variant for variant in others if variant["difference"]]
    yield from compared_with(reference["name"], compared, results["compared"])
    yield from too_few(compared)
    within = [v | {"difference": v["class_difference"]} for v in others if v.get("class_difference")]
    for sentence in compared_with(reference["name"], within, results["compared"]):
        yield f"On the pixels of {' and '.join(results['classes'])}: {sentence[0].lower()}{sentence[1:]}"
    for sentence in too_few(within):
        yield f"On the pixels of {' and '.join(results['classes'])}: {sentence}"
    if any(variant["preferred"] for variant in compared):
        yield from papers_order(results, [reference, *(variant for variant in compared if variant["preferred"])])
    if compared:
        yield from limits([reference, *compared], results["spread"])


def compared_with(name: str, compared: Sequence[dict[str, Any]], by: str) -> Iterator[str]:
    """Yields which variants are farther by the distance `by`, which are nearer, and which differ in no clear direction."""
    kinds: dict[str, list[str]] = {"farther": [], "nearer": [], "either": []}
    for variant in compared:
        apart = variant["difference"]
        signs = {np.sign(value) for value in (apart["low"], apart["high"], *apart["seeds"])}
        kind = {frozenset({1.0}): "farther", frozenset({-1.0}): "nearer"}.get(frozenset(signs), "either")
        kind = kind if apart["images"] >= FEWEST else "either"
        seeds = ", ".join(f"{value:+.1f}" for value in apart["seeds"])
        each = f"; seeds {seeds}" if len(apart["seeds"]) > 1 else ""
        kinds[kind].append(f"{variant['name']} ({apart['value']:+.1f}; {apart['low']:+.1f} to {apart['high']:+.1f}{each})")
    if kinds["farther"]:
        yield f"Farther from the photographs than {name} by {by}: {', '.join(kinds['farther'])}."
    if kinds["nearer"]:
        yield f"Nearer to the photographs than {name}: {', '.join(kinds['nearer'])}."
    if kinds["either"]:
        yield f"Not clearly different from {name}: {', '.join(kinds['either'])}."


def too_few(compared: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yields that differences rest on too few images to be decided, if they do."""
    if (fewest := min((variant["difference"]["images"] for variant in compared), default=FEWEST)) < FEWEST:
        yield f"{counted(fewest, 'image')} cannot decide a difference: {FEWEST} is the least."


def papers_order(results: dict[str, Any], variants: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yields how far each score orders the variants as people did in the paper."""

    def rank(variant: dict[str, Any]) -> float:
        return statistics.fmean(variant["preferred"].values()) if variant["preferred"] else 50.0  # the cascade against itself

    published = sorted(variants, key=rank)
    names = ", ".join(variant["name"] for variant in published)
    yield f"The paper's order, by how few people preferred the cascade (other photographs, longer training): {names}."
    pairs = list(itertools.combinations(published, 2))
    for score in main_scores(results):
        key, sign = score["key"], {"higher": -1, "lower": 1}.get(score["better"])
        if sign and all(key in variant["scores"] for variant in variants):
            values = {variant["name"]: sign * variant["scores"][key]["value"] for variant in variants}
            agree = sum(values[better["name"]] < values[worse["name"]] for better, worse in pairs)
            order = ", ".join(sorted(values, key=values.__getitem__))
            yield f"By {score['title']}: {order}; {agree} of {len(pairs)} pairs are in the paper's order."


def limits(variants: Sequence[dict[str, Any]], spread: dict[str, float] | None) -> Iterator[str]:
    """Yields what these trainings do not show. `spread` tells how far seeds move the distance, if any variant has several."""
    _, *others = variants
    finished = finished_curves(variants)
    counts = {len(variant["difference"]["seeds"]) for variant in others}
    if min(counts) == 1:
        who = "Each variant was" if counts == {1} else "Some variants were"
        yield f"{who} trained once (see --seeds)."
    if spread is None:
        yield "Nobody knows how far another seed would move these figures. Intervals tell trainings apart here, not variants."
    else:
        yield (
            f"Intervals are over images and seeds. Beyond what a seed does to all variants, it moves a distance by "
            f"{spread['std']:.1f} (standard deviation), or by more where a variant's own seeds are farther apart."
        )
        if len(others) > 5:
            yield f"About {round(0.05 * len(others), 1):g} of {len(others)} differences would look clear by chance, at 95%."
    if len(others) > 5:
        yield order_kept([[curve for curve in curves if curve] for curves in finished.values()])
    falls = {name: still_falling(curves[0]) for name, curves in finished.items()}
    if falling := [f"{name} ({change})" for name, change in falls.items() if change]:
        yield f"These distances still fell by more than 1% in the last eighth of the steps: {', '.join(falling)}."
    yield from (f"{variant['name']}: {variant['rescaling']}." for variant in variants if variant["rescaling"])
    if any("between" in variant["scores"] for variant in variants):
        yield (
            "Differences and curves count the image of a collection that is nearest to the photograph, as the loss does. Other "
            "scores use an image chosen without the photograph. A larger k makes the nearest image nearer by chance alone."
        )
    yield (
        "The perceptual distance is what the cascade is trained by, so it is no neutral judge. "
        "launch.evaluate --study_page asks people."
    )


def finished_curves(variants: Sequence[dict[str, Any]]) -> dict[str, list[Sequence[Sequence[float]]]]:
    """Returns the learning curves of each variant's finished trainings, by the variant's name."""
    return {variant["name"]: [run["curve"] for run in variant["runs"] if run["status"] == "finished"] for variant in variants}


def still_falling(curve: Sequence[Sequence[float]]) -> str | None:
    """Tells how a distance fell over about the last eighth of the steps, if by more than 1%."""
    if len(curve) < 2:
        return None
    *earlier, (last, _, distance) = curve
    step, _, before = nearest(earlier, 7 / 8 * last)
    return f"{before:.1f} at step {step:,}, then {distance:.1f}" if distance < 0.99 * before else None


def nearest(curve: Sequence[Sequence[float]], step: float) -> Sequence[float]:
    """Returns the point of a learning curve that is nearest to a step."""
    return min(curve, key=lambda point: abs(point[0] - step))


def order_kept(curves: Sequence[Sequence[Sequence[Sequence[float]]]]) -> str:
    """Tells how many pairs of variants had their final order before, from the curves of each variant's seeds.

    If the order has settled, a larger budget would hardly change which variant is better.
    """
    then = [statistics.fmean(nearest(curve, 3 / 4 * curve[-1][0])[2] for curve in variant) for variant in curves]
    last = [statistics.fmean(curve[-1][2] for curve in variant) for variant in curves]
    pairs = list(itertools.combinations(range(len(curves)), 2))
    kept = sum(np.sign(then[a] - then[b]) == np.sign(last[a] - last[b]) for a, b in pairs)
    return f"By the validation, {kept} of {len(pairs)} pairs of variants had this order after three quarters of the steps, too."


def main_scores(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the scores without those that repeat mIoU."""
    return [score for score in results["scores"] if score["key"] not in _BESIDE]


# Tables


class Column(NamedTuple):
    """A column of a table. `text` returns a variant's cell."""

    title: str
    text: Callable[[dict[str, Any]], str]


def score_columns(results: dict[str, Any]) -> list[Column]:
    """Returns a column for each of the main scores."""

    def column(score: dict[str, Any]) -> Column:
        unit = f", {score['unit']}" if score["unit"] else ""
        return Column(f"{score['title']}{unit}", lambda variant: with_interval(variant["scores"].get(score["key"])))

    return [column(score) for score in main_scores(results)]


def cost_columns() -> list[Column]:
    """Returns the columns of a variant's costs."""

    def column(title: str, key: str, form: str, scale: int = 1) -> Column:
        def text(variant: dict[str, Any]) -> str:
            value = variant["figures"].get(key)
            return "" if value is None else format(value if scale == 1 else value / scale, form)

        return Column(title, text)

    return [
        column("parameters", "parameters", ",.0f"),
        column("GFLOP a step", "step_flop", ",.3g", 10**9),
        column("GFLOP to synthesize", "synthesis_flop", ",.3g", 10**9),
        column("s a step", "seconds_per_step", ".3g"),
        column("minutes", "minutes", ".3g"),
    ]


_NAME = Column("", lambda variant: variant["name"])
_DIFFERENCE = Column("distance less the first's", lambda variant: with_interval(variant["difference"]))
_NEARER = Column(
    "nearer than the first's, % of images", lambda v: f"{100 * v['difference']['nearer']:.0f}" if v["difference"] else ""
)
_CLASS_DIFFERENCE = Column("the same on chosen classes", lambda variant: with_interval(variant.get("class_difference")))
_SEEDS = Column("seeds", lambda variant: str(sum(run["status"] == "finished" for run in variant["runs"])))


def preference_columns(results: dict[str, Any]) -> list[Column]:
    """Returns columns that tell how many of a hundred people preferred the cascade, by the paper."""

    def text(name: str, variant: dict[str, Any]) -> str:
        return f"{variant['preferred'][name]:g}" if name in (variant["preferred"] or ()) else ""

    names = dict.fromkeys(itertools.chain(*(variant["preferred"] or () for variant in results["variants"])))
    return [Column(f"cascade preferred, {name}, %", functools.partial(text, name)) for name in names]


def with_interval(score: dict[str, float] | None) -> str:
    """Formats a score and its interval, such as 40.5 (39.7 to 41.1)."""
    if score is None:
        return ""
    value, *ends = (number(score[key]) for key in ("value", "low", "high") if score.get(key) is not None)
    return value + (f" ({' to '.join(ends)})" if len(ends) == 2 else "")


def figures_table(results: dict[str, Any]) -> rich.table.Table:
    """Returns the table for a terminal, which has room for values alone."""
    columns = [_NAME, *score_columns(results), _SEEDS]
    table = rich.table.Table(box=None, header_style="dim", title=results["title"], title_justify="left")
    for column in columns:
        is_name = column is _NAME
        table.add_column(column.title, justify="left" if is_name else "right", no_wrap=is_name)
    for variant in results["variants"]:
        name, *values = (column.text(variant) for column in columns)
        table.add_row(name, *(value.split(" (")[0] for value in values))
    return table


def markdown(results: dict[str, Any]) -> str:
    """Returns scores, costs, conclusions and notes as a Markdown document."""
    differences = [_DIFFERENCE, _CLASS_DIFFERENCE] if results.get("classes") else [_DIFFERENCE]
    scores = [_NAME, *score_columns(results), *differences, _NEARER, _SEEDS, *preference_columns(results)]
    costs = [_NAME, *cost_columns()]
    said = "\n".join(f"- {sentence}" for sentence in results["conclusions"] + results["notes"])
    head = f"# {results['title']}\n\n{results['question']} Budget: {results['budget']}."
    return "\n\n".join([head, markdown_table(scores, results), markdown_table(costs, results), said]) + "\n"


def markdown_table(columns: Sequence[Column], results: dict[str, Any]) -> str:
    """Returns a Markdown table with a row for each variant."""
    rows = [[column.title for column in columns], ["---"] * len(columns)]
    rows += [[column.text(variant).replace("|", r"\|") for column in columns] for variant in results["variants"]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
