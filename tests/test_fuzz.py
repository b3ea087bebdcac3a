"""Every reader gives the right data of a damaged file, or refuses it in words. fuzz.py does the same with more files."""

import pytest

from crn_jax.errors import UserError
from tests import fuzz

NAMES = fuzz.reader_names()


@pytest.fixture(scope="module")
def outcomes() -> dict[str, fuzz.Outcome]:
    return fuzz.run([(name, range(fuzz.readers()[name].suite)) for name in NAMES])


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_refused_or_read_right(outcomes, name):
    outcome = outcomes[name]
    assert not outcome.failures, outcome.failures[:5]
    assert outcome.cases.total() == fuzz.readers()[name].suite


@pytest.mark.quick
def test_the_harness_notices_what_is_wrong(tmp_path):
    """Other data, an error that is no UserError, and one without words."""
    (tmp_path / "file").write_bytes(b"intact")
    found = {
        "other data": lambda folder: (folder / "file").read_bytes(),
        "KeyError": lambda folder: {}[folder],
        "no message": lambda folder: (_ for _ in ()).throw(UserError("")),
    }
    for sign, read in found.items():
        reader = fuzz.Reader(lambda folder: None, read)
        outcome, text = fuzz.case("x", 1, reader, tmp_path, b"intact")
        assert outcome == "FAILED" and sign in text, text
        assert (tmp_path / "file").read_bytes() == b"intact"
