"""Names of modules that cannot be taken for one another."""

import itertools
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def differ_only_by_an_ending(one: str, other: str) -> bool:
    """Whether names have a stem of five letters or more in common, and behind it only endings of at most four."""
    stem = os.path.commonprefix([one, other])
    return len(stem) >= 5 and all(len(name) - len(stem) <= 4 and "_" not in name[len(stem) - 1 :] for name in (one, other))


@pytest.mark.parametrize(
    ("pair", "alike"),
    [
        ("report reporting", True),
        ("inspect inspection", True),
        ("evaluate evaluation", True),
        ("synthesize synthesis", True),
        ("label_space label_spaces", True),
        ("study study_answers", False),
        ("metrics methods", False),
        ("label_space label_file", False),
    ],
)
def test_the_rule(pair, alike):
    assert differ_only_by_an_ending(*pair.split()) == alike


@pytest.mark.parametrize("package", ["crn_jax", "launch"])
def test_no_two_modules_have_names_that_differ_only_by_an_ending(package):
    """A folder is no module: `launch/evaluation/` may hold what `launch/evaluate.py` is made of."""
    names = sorted({path.stem for path in (ROOT / package).rglob("*.py")})
    assert len(names) > 20
    assert not [pair for pair in itertools.combinations(names, 2) if differ_only_by_an_ending(*pair)]
