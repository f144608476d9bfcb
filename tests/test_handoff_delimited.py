import csv
import io
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from miner.handoff.delimited import csv_text, json_lines

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
CELL = (
    TEXT
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False, width=32)
)


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, CELL), max_size=5))
def test_a_reader_of_csv_gets_back_every_text(cells: list[tuple[str, object]]) -> None:
    rows = [{"a": first, "b": second} for first, second in cells]
    text = "".join(csv_text(["a", "b"], rows))  # type: ignore[arg-type]
    header, *found = csv.reader(io.StringIO(text, newline=""))
    assert header == ["a", "b"]
    assert [row[0] for row in found] == [first for first, _ in cells]
    for (_, value), row in zip(cells, found, strict=True):
        if isinstance(value, bool):
            assert row[1] == ("true" if value else "false")
        elif isinstance(value, float):
            assert float(row[1]) == value
        else:
            assert row[1] == ("" if value is None else str(value))


def test_nothing_is_told_from_an_empty_text_and_ends_of_lines_are_those_of_the_rfc() -> None:
    rows = [{"a": None, "b": ""}, {"a": 'x"y', "b": "=1"}]
    assert "".join(csv_text(["a", "b"], rows)) == '"a","b"\r\n,""\r\n"x""y","=1"\r\n'


@settings(deadline=None)
@given(st.lists(st.dictionaries(TEXT, CELL), max_size=4))
def test_json_lines_are_as_many_as_rows_for_every_reader_of_lines(rows: list[object]) -> None:
    text = "".join(json_lines(rows))  # type: ignore[arg-type]
    assert [json.loads(line) for line in text.splitlines()] == rows
