"""JSON: what may be wrong in a file is told with its place."""

import json
import math

import pytest

from crn_jax.checksums import sealed
from crn_jax.errors import UserError
from crn_jax.formats.json_file import check, parse_json, read_json, read_json_lines

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1, column 1: this is not JSON"),
        (b'{"a": 1,\n "b" 2}', "line 2, column 6: this is not JSON"),
        (b'{"a": 1} x', "line 1, column 10: this is not JSON"),
        (b'{"a": "\0"}', "line 1, column 8: this is not JSON"),
        (bytes(100), "line 1, column 1: this is not JSON"),
        ('{"a": "ü"}'.encode("latin-1"), "this is no text in UTF-8, so no JSON .* at byte 7"),
        ('{"a": 1}'.encode("utf-16"), "this is no text in UTF-8"),
        (b'{"a": 1, "a": 2}', '"a" is there twice'),
        (b'{"a": {"b": 1, "b": 1}}', '"b" is there twice'),
        (b'{"a": NaN}', "NaN is no number of JSON"),
        (b'{"a": -Infinity}', "-Infinity is no number of JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number has 5,000 digits"),
        (b"[" * 100_000, "the JSON is nested too deeply"),
        (b'{"a": ' * 100 + b"1" + b"}" * 100, "the JSON is nested too deeply"),
        (b"[]", r"an object in braces is needed, got \[\]"),
        (b"null", "an object in braces is needed, got null"),
        (json.dumps(sealed({"a": 1}) | {"a": 2}).encode(), "the file is damaged: its values do not have the checksum"),
    ],
    ids=range(17),
)
def test_what_is_wrong_is_told_with_its_place(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"x\.json: {message}.*Buy it\.$"):
        read_json(tmp_path / "x.json", "Buy it.")


def test_files_that_are_read(tmp_path):
    for content, value in (
        (b"\xef\xbb\xbf{}", {}),
        (b'{"a": [1.5, null]}', {"a": [1.5, None]}),
        ('{"ü": "λ"}'.encode(), {"ü": "λ"}),
    ):
        (tmp_path / "x.json").write_bytes(content)
        assert read_json(tmp_path / "x.json", "") == value
    (tmp_path / "x.json").write_text(json.dumps(sealed({"a": 1})))
    assert read_json(tmp_path / "x.json", "", {"a": int}) == {"a": 1}
    (tmp_path / "x.json").write_text('{"a": 1, "b": "20250101"}')
    assert read_json(tmp_path / "x.json", "", sealed=False) == {"a": 1, "b": "20250101"}
    with pytest.raises(UserError, match="the key of its checksum is 'b'"):
        read_json(tmp_path / "x.json", "")
    with pytest.raises(UserError, match=r"none\.json: the file cannot be read \(No such file or directory\)\. Buy it\."):
        read_json(tmp_path / "none.json", "Buy it.")
    assert math.isnan(parse_json("NaN", "x", "", object, nan=True))


@pytest.mark.parametrize(
    ("value", "form", "message"),
    [
        ({"a": "1"}, {"a": int}, 'a: a whole number is needed, got "1"'),
        ({"a": True}, {"a": int}, "a: a whole number is needed, got true"),
        ({"a": 1.5}, {"a": int}, "a: a whole number is needed, got 1.5"),
        ({"a": None}, {"a": float}, "a: a number is needed, got null"),
        ({"a": [1, "x"]}, {"a": [float]}, r'a\[1\]: a number is needed, got "x"'),
        ({"a": {"b": 5}}, {"a": {"b": str}}, "a.b: a text in quotes is needed, got 5"),
        ({"a": {"b": 5}}, {"a": {"*": str}}, "a.b: a text in quotes is needed, got 5"),
        ({"a": []}, {"a": (str, None)}, r"a: a text in quotes or null is needed, got \[\]"),
        ({}, {"a": int}, "a is missing"),
        ({"a": {}}, {"a": {"b": int}}, "a.b is missing"),
        ({"a": "x" * 99}, {"a?": int}, r'a: a whole number is needed, got "x{56}\.\.\.'),
        (5, [int], "a list is needed, got 5"),
    ],
)
def test_a_wrong_type_is_told_by_its_field(value, form, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        check(value, form)


def test_values_of_the_right_form():
    check({"a": 1, "b": [1.5, 2], "more": []}, {"a": int, "b": [float], "c?": str})
    check({"a": {"x": None, "y": 2.0}}, {"a": {"*": (float, None)}})


def test_lines(tmp_path):
    """Blank lines, zeros after a loss of power, and lines that are cut or too long are damaged; the last is left out."""
    lines = [
        b'{"a": 1}',
        b"",
        b'{"a": NaN}',
        bytes(50),
        b'\0\0{"a": 2}',
        b'{"a": ',
        b"[1]",
        b"\xff",
        b'"' + b"x" * 3_000_000 + b'"',
        b'{"a": 3}',
    ]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines) + b'\n{"a": 4')
    read = dict(read_json_lines(tmp_path / "x.jsonl", {"a": float}))
    assert list(read) == list(range(1, 11)) and {number for number, line in read.items() if line is not None} == {1, 10}
    read = dict(read_json_lines(tmp_path / "x.jsonl"))
    assert read[1] == {"a": 1} and math.isnan(read[3]["a"]) and read[10] == {"a": 3}
    (tmp_path / "x.jsonl").write_bytes(b"")
    assert not list(read_json_lines(tmp_path / "x.jsonl"))
