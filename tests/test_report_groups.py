from datetime import UTC, datetime
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pytest

from miner.pairs import pair_id
from miner.reporting.groups import decided_on, pattern_rows, source_of, source_rows
from miner.review import Decision
from tests.cosine_tables import RECORD, raw_table


def said(number: int, **fields: object) -> Decision:
    one, two = (f"{2 * number + side:064x}" for side in (0, 1))
    names = {"pair_id": pair_id(one, two), "sha256_1": one, "sha256_2": two}
    when = datetime(2026, 1, 1, tzinfo=UTC)
    return Decision(**names, reviewer="ann", decided_at=when, **fields)  # type: ignore[arg-type]


def test_decisions_are_counted_by_pattern() -> None:
    decisions = [
        *(said(n, decision="accept", pattern=4) for n in range(3)),
        said(3, decision="reject", pattern=4),
        said(4, pattern=9),
        said(5, decision="reject"),
    ]
    rows = pattern_rows(decisions)
    assert [row[0] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert rows[3] == (4, "quantity and count", 3, 1, 0)
    assert rows[8] == (9, "viewpoint and perspective", 0, 0, 1)
    assert rows[9] == (0, "no pattern", 0, 1, 0)
    assert sum(sum(row[2:]) for row in rows) == 6
    assert [row[0] for row in pattern_rows(decisions[:5])] == list(range(1, 10))
    assert pattern_rows([]) == []


def test_decisions_on_pairs_that_are_not_blind_here_do_not_count() -> None:
    decided = {each.pair_id: each for each in (said(n) for n in range(4))}
    first, second, third, _ = decided
    record = RECORD | {"keep_clip": 0.9}
    raw = raw_table(np.array([0.97, 0.92, 0.98]), np.array([0.1, 0.1, 0.1]), record)
    raw = raw.set_column(0, raw.schema.field(0), pa.array([first, second, third]))
    assert [each.pair_id for each in decided_on(raw, decided)] == [first, third]
    assert decided_on(raw, {}) == []


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("https://Images.Example.org:8443/a.jpg?b=c", ("host", "images.example.org")),
        ("HTTP://example.org", ("host", "example.org")),
        ("https://user:secret@example.org/a.jpg", ("host", "example.org")),
        (None, ("dataset", "laion")),
        ("", ("dataset", "laion")),
        ("/data/a.jpg", ("dataset", "laion")),
        ("javascript:alert(1)", ("dataset", "laion")),
        ("https://[broken/a.jpg", ("dataset", "laion")),
        ("https:///a.jpg", ("dataset", "laion")),
        ("https://a b/c.jpg", ("dataset", "laion")),
        (f"https://{'a' * 254}/c.jpg", ("dataset", "laion")),
        ("https://[2001:db8::1]:80/a.jpg", ("host", "[2001:db8::1]")),
        ("https://ann@x:b@example.org?a@b.org/", ("host", "example.org")),
        ("https://example.org#a@b.org", ("host", "example.org")),
    ],
)
def test_the_source_is_the_host_or_else_the_dataset(url: str | None, wanted: object) -> None:
    assert source_of("laion/00000/000000001", url) == wanted


def test_hosts_are_those_of_the_standard_library() -> None:
    for url in ("https://a.org", "http://u:p@b.org:1/?q=@c", "https://d.org?x=https://e.org/"):
        assert source_of("laion/0/1", url) == ("host", urlsplit(url).hostname)


def test_a_pair_counts_once_for_each_source() -> None:
    selected = pa.table(
        {
            "image_1": ["a/0/1", "a/0/1", "a/0/2", "b/0/1"],
            "image_2": ["a/0/2", "b/0/1", "b/0/1", "b/0/2"],
            "url_1": ["https://x.org/1", "https://x.org/1", None, None],
            "url_2": pa.array([None, None, None, None], pa.string()),
        }
    )
    assert source_rows(selected) == [
        ("b", "dataset", 3, 2),
        ("a", "dataset", 2, 1),
        ("x.org", "host", 2, 1),
    ]
