"""Requests to the review server: what is given, what is kept, and what hostile ones get."""

from __future__ import annotations

import logging
import socket

import pytest

from miner.review import encode_decisions
from miner.reviewing.kept import decisions_of
from miner.reviewing.request import MAX_BODY_BYTES, TYPES
from tests.review_servers import JSON_LINES, Served, module_served, served
from tests.reviews import said_of, selected_rows

__all__ = ["module_served", "served"]


def test_it_serves_the_files_of_the_report(served: Served) -> None:
    report = served.folder / "report"
    image = next((report / "images").iterdir())
    for path in ("cosines.csv", "cosines-light.svg", f"images/{image.name}"):
        answer = served.ask(path)
        assert answer.status == 200
        assert answer.body == (report / path).read_bytes()
        assert answer.headers["Content-Type"] == TYPES[path.rpartition(".")[2]]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    head = served.ask("cosines.csv", method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["Content-Length"]) == (report / "cosines.csv").stat().st_size


@pytest.mark.parametrize(
    "path",
    [
        "report.json",
        "images",
        "images/",
        "thumbs/../../join.json",
        "..",
        "../join.json",
        "../selected.parquet",
        "%2e%2e/join.json",
        "..%2fjoin.json",
        "images/..%2f..%2fjoin.json",
        "//etc/passwd",
        "/etc/passwd",
        "=/etc/passwd",
        "images//etc/passwd.svg",
        "images/.hidden.png",
        "index.html/",
        "index.html%00.png",
        "INDEX.HTML",
        "no-such-file.csv",
        "images/" + "0" * 64 + ".jpg",
        "images\\..\\x.csv",
        "a" * 5000 + ".csv",
    ],
)
def test_nothing_else_can_be_read(served: Served, path: str) -> None:
    answer = served.ask(path)
    assert answer.status in (404, 500)
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert b"{" not in answer.body


def test_no_address_without_the_token(served: Served) -> None:
    for path in (
        "=/",
        "=/index.html",
        "=//",
        "=/x/index.html",
        "=/review.jsonl",
        "=/%00/",
        "=/%C3%BC/",
    ):
        answer = served.ask(path)
        assert answer.status == 404
        assert b"use the address that `blindpairs report` printed" in answer.body
    token = served.server.token
    assert served.ask(f"=/{token[:-1]}/index.html").status == 404
    answer = served.ask("=http://[/x", Host=served.origin.removeprefix("http://"))
    assert (answer.status, answer.body) == (400, b"no address: Invalid IPv6 URL\n")


def test_only_loopback_is_a_host(served: Served) -> None:
    port = served.server.server_port
    for host in ("127.0.0.1", "evil.example", f"evil.example:{port}", "127.0.0.1:1", ""):
        answer = served.ask("index.html", Host=host)
        assert answer.status == 403
        assert b"answers to 127.0.0.1 alone" in answer.body
    assert served.ask("index.html", Host=f"localhost:{port}").status == 200


def test_decisions_are_saved_and_given_back(served: Served) -> None:
    one, two, _ = selected_rows(served.folder)
    decisions = [
        said_of(one, "ann", decision="accept", pattern=3, question="is it \u2028 <b>?"),
        said_of(two, "ann", decision="reject"),
        said_of(two, "bob", decision="accept"),
    ]
    assert served.save(encode_decisions(decisions)).status == 204
    later = said_of(two, "ann", decision="accept", minutes=5)
    assert served.save(encode_decisions([later])).status == 204
    assert served.save(encode_decisions(decisions)).status == 204
    assert {said.line() for said in decisions_of(served.store)} == {
        said.line() for said in (decisions[0], later, decisions[2])
    }
    answer = served.ask("review.jsonl?reviewer=ann")
    assert answer.headers["Content-Type"] == f"{JSON_LINES}; charset=utf-8"
    assert answer.body == (served.store.root / "review" / "ann.jsonl").read_bytes()
    assert served.ask("review.jsonl?reviewer=nobody").body == b""


@pytest.mark.parametrize("name", ["", "../ann", "..", ".x", "a/b", "a" * 65, "%00", "a%0a"])
def test_a_reviewer_is_a_plain_name(served: Served, name: str) -> None:
    answer = served.ask(f"review.jsonl?reviewer={name}")
    assert answer.status == 400
    assert b"give ?reviewer=NAME" in answer.body


def test_other_pages_cannot_write(served: Served) -> None:
    body = encode_decisions([said_of(selected_rows(served.folder)[0], "ann", decision="accept")])
    port = served.server.server_port
    for origin in ("null", "https://evil.example", f"http://127.0.0.1:{port + 1}", "file://", ""):
        answer = served.save(body, Origin=origin)
        assert answer.status == 403, origin
        assert b"only the report's own page may save" in answer.body
    without = served.ask("review.jsonl", method="POST", body=body, Content_Type=JSON_LINES)
    assert without.status == 403
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = served.save(body, Content_Type=kind)
        assert answer.status == 415, kind
        assert b"decisions come as application/x-ndjson" in answer.body
    assert served.save(body, Host="evil.example").status == 403
    elsewhere = served.ask("index.html", method="POST", body=body, Origin=served.origin)
    assert elsewhere.status == 404
    assert decisions_of(served.store) == []


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff",
        b"[]",
        b'{"reviewer": "../../x"}',
        b"[" * 100_000,
        b'{"pair_id":NaN}',
        b"\x00",
    ],
)
def test_what_is_no_decision_is_refused_whole(served: Served, body: bytes) -> None:
    good = encode_decisions([said_of(selected_rows(served.folder)[0], "ann", decision="accept")])
    answer = served.save(good + body)
    assert answer.status == 422
    assert b"the request: line 2 is no decision" in answer.body
    assert decisions_of(served.store) == []


def test_what_is_too_large_or_endless_is_not_read(served: Served) -> None:
    answer = served.save(b"", Content_Length=str(MAX_BODY_BYTES + 1))
    assert answer.status == 413
    assert f"limit {MAX_BODY_BYTES}; send fewer decisions".encode() in answer.body
    for length in ("-1", "x", "1e3", "9" * 99, "٣"):
        sent = length.encode().decode("latin-1")
        assert served.save(b"", Content_Length=sent).status == 411, length
    chunked = served.ask(
        "review.jsonl",
        method="POST",
        Origin=served.origin,
        Content_Type=JSON_LINES,
        Transfer_Encoding="chunked",
    )
    assert chunked.status == 411


def test_a_request_that_ends_early_keeps_nothing(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.server.server_port), timeout=30) as sent:
        head = (
            f"POST /{served.server.token}/review.jsonl HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{served.server.server_port}\r\nOrigin: {served.origin}\r\n"
            f"Content-Type: {JSON_LINES}\r\nContent-Length: 9\r\n\r\n{{}}"
        )
        sent.sendall(head.encode())
        sent.shutdown(socket.SHUT_WR)
        answer = sent.makefile("rb").read()
    assert b"400 Bad Request" in answer
    assert b"2 of 9 bytes arrived" in answer


def test_the_body_of_a_refused_request_is_no_request(served: Served) -> None:
    host = f"Host: 127.0.0.1:{served.server.server_port}\r\n"
    hidden = f"GET /{served.server.token}/cosines.csv HTTP/1.1\r\n{host}\r\n"
    head = f"POST /x/ HTTP/1.1\r\n{host}Content-Length: {len(hidden)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.server.server_port), timeout=30) as sent:
        sent.sendall((head + hidden).encode())
        sent.shutdown(socket.SHUT_WR)
        answer = sent.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_run_that_cannot_be_written_says_so(served: Served) -> None:
    row = selected_rows(served.folder)[0]
    served.store.files.write("review/ann.jsonl", b"damaged\n")
    answer = served.save(encode_decisions([said_of(row, "ann", decision="accept")]))
    assert answer.status == 500
    assert b"ann.jsonl: line 1 is no decision" in answer.body


def test_the_token_is_not_logged(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="miner.reviewing.request"):
        assert served.ask("cosines.csv").status == 200
    assert '"GET /.../cosines.csv HTTP/1.1" 200' in caplog.text
    assert served.server.token not in caplog.text


def test_a_reviewer_gets_no_lines_of_others(served: Served) -> None:
    one, two, _ = selected_rows(served.folder)
    lines = [said_of(one, "bob", decision="accept"), said_of(two, "ann", decision="reject")]
    served.store.files.write("review/ann.jsonl", encode_decisions(lines) + b"damaged\n")
    answer = served.ask("review.jsonl?reviewer=ann")
    # Empty where another's line was, so that lines keep their numbers.
    assert answer.body == b"\n" + encode_decisions(lines[1:]) + b"damaged\n"


def test_a_time_that_no_clock_shows_is_refused(served: Served) -> None:
    line = said_of(selected_rows(served.folder)[0], "ann", decision="accept").line()
    when = "9999-12-31T23:59:59-12:00"
    answer = served.save(line.replace("2026-01-31T12:00:00.000Z", when).encode())
    assert answer.status == 422
    assert b"outside the years 1 to 9999" in answer.body
