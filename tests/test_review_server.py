"""The review server: what it gives, what it keeps, and what hostile requests get."""

from __future__ import annotations

import http.client
import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from miner.errors import ResourceError, StoreError
from miner.review import encode_decisions
from miner.reviewing.kept import decisions_of
from miner.reviewing.request import MAX_BODY_BYTES, TYPES
from miner.reviewing.server import ReviewServer, hosts_of, ports_of
from miner.store import Store
from tests.buckets import objects, upload
from tests.report_runs import Shot, encoded, make_run, report_of
from tests.reviews import said_of, selected_rows

JSON_LINES = "application/x-ndjson"


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running server, its run and the join's folder."""

    server: ReviewServer
    store: Store
    folder: Path

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def ask(
        self, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> Answer:
        """Ask for a path below the token, or for `=target` as it stands."""
        target = path[1:] if path.startswith("=") else f"/{self.server.token}/{path}"
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=30)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, target, body, sent)
            answer = connection.getresponse()
            return Answer(
                status=answer.status, headers=dict(answer.getheaders()), body=answer.read()
            )
        finally:
            connection.close()

    def save(self, body: bytes, **headers: str) -> Answer:
        """Save decisions as the page does."""
        sent = {"Origin": self.origin, "Content_Type": JSON_LINES, **headers}
        return self.ask("review.jsonl", method="POST", body=body, **sent)


@contextmanager
def serving(store: Store, folder: Path) -> Iterator[Served]:
    with ReviewServer(store, folder.name) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Served(server=server, store=store, folder=folder)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def module_served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    shots = [Shot(data=encoded(n)) for n in range(3)]
    store, folder = make_run(tmp_path_factory.mktemp("server"), shots)
    report_of(store, folder)
    with serving(store, folder) as served:
        yield served


@pytest.fixture
def served(module_served: Served) -> Served:
    module_served.store.files.delete_folder("review")
    return module_served


def test_it_listens_on_loopback_alone(served: Served) -> None:
    assert served.server.server_address[0] == "127.0.0.1"
    assert served.server.url == f"{served.origin}/{served.server.token}/"
    assert len(served.server.token) >= 20


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


def test_the_page_may_save_and_nothing_else_more_than_from_disk(served: Served) -> None:
    there = (served.folder / "report" / "index.html").read_text("utf-8")
    for path in ("", "index.html", "?x#y"):
        text = served.ask(path).body.decode()
        assert text.count("connect-src &#39;self&#39;; ") == 1
        assert text.count('<meta name="review-server" content="here">') == 1
        text = text.replace('<meta name="review-server" content="here">', "")
        assert text.replace("connect-src &#39;self&#39;; ", "") == there
    assert "connect-src" not in there
    assert served.ask("").headers["Content-Security-Policy"] == "frame-ancestors 'none'"


def test_a_page_of_another_version_is_not_served(served: Served) -> None:
    index = served.folder / "report" / "index.html"
    page = index.read_bytes()
    try:
        index.write_bytes(page.replace(b"default-src", b"script-src", 1))
        answer = served.ask("")
        assert answer.status == 500
        assert b"made by another version; run `blindpairs report` again" in answer.body
    finally:
        index.write_bytes(page)


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


def test_two_tabs_at_once_lose_nothing(served: Served) -> None:
    rows = selected_rows(served.folder)
    bodies = [
        encode_decisions([said_of(row, who, minutes=minute, decision="accept")])
        for minute in range(4)
        for row in rows
        for who in ("ann", "bob")
    ]
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda body=body: statuses.append(served.save(body).status))
        for body in bodies
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [204] * len(bodies)
    kept = decisions_of(served.store)
    assert len(kept) == 2 * len(rows)
    assert {said.decided_at.minute for said in kept} == {3}


def test_who_hangs_up_is_no_error(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="miner.reviewing.server"):
        for error in (ConnectionResetError(), ValueError("a defect")):
            try:
                raise error
            except (ConnectionError, ValueError):
                served.server.handle_error(None, None)
    assert [record.levelname for record in caplog.records] == ["INFO", "ERROR"]


def test_the_token_is_not_logged(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="miner.reviewing.request"):
        assert served.ask("cosines.csv").status == 200
    assert '"GET /.../cosines.csv HTTP/1.1" 200' in caplog.text
    assert served.server.token not in caplog.text


def test_a_port_that_is_taken_is_a_resource(served: Served) -> None:
    port = served.server.server_port
    with pytest.raises(ResourceError, match=f"port {port} of 127.0.0.1 cannot be had .*--port"):
        ReviewServer(served.store, served.folder.name, port=port)


def test_a_join_without_a_report_is_refused(served: Served) -> None:
    with pytest.raises(StoreError, match="holds no report; run `blindpairs report"):
        ReviewServer(served.store, "no-such-join")


def test_a_run_in_a_bucket_is_served_and_decided_upon(
    s3: str, module_served: Served, tmp_path: Path
) -> None:
    upload(module_served.store.root, f"{s3}/run")
    store, row = Store(f"{s3}/run"), selected_rows(module_served.folder)[0]
    decision = said_of(row, "zoe", decision="accept")
    with serving(store, module_served.folder) as served:
        assert served.ask("cosines.csv").body == module_served.ask("cosines.csv").body
        assert served.ask("review.jsonl?reviewer=zoe").body == b""
        assert served.ask("no-such-file.csv").status == 404
        assert served.save(encode_decisions([decision])).status == 204
        assert served.ask("review.jsonl?reviewer=zoe").body == encode_decisions([decision])
    assert objects(f"{s3}/run")["review/zoe.jsonl"] == encode_decisions([decision])


def test_a_run_has_its_own_port_or_the_next_free_one(
    module_served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, name = module_served.store, module_served.folder.name
    ports = ports_of(store)
    assert ports == ports_of(Store(store.root)) != ports_of(Store(store.root / "other"))
    assert set(ports) < {*range(20_000, 60_000)}
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setattr("miner.reviewing.server.ports_of", lambda store: [taken, taken])
        with pytest.raises(ResourceError, match=f"port {taken} of 127.0.0.1 cannot be had"):
            ReviewServer(store, name)
        monkeypatch.setattr("miner.reviewing.server.ports_of", lambda store: [taken, 0])
        with ReviewServer(store, name) as server:
            assert server.server_port not in (0, taken)


def test_a_browser_leaves_the_port_of_http_out(served: Served) -> None:
    # Port 80 is not a test's to take; the names follow from the number alone.
    assert hosts_of(80) == {"127.0.0.1", "localhost", "127.0.0.1:80", "localhost:80"}
    assert hosts_of(served.server.server_port) == served.server.hosts
    assert len(served.server.hosts) == 2


def test_a_reviewer_gets_no_lines_of_others(served: Served) -> None:
    one, two, _ = selected_rows(served.folder)
    lines = [said_of(one, "bob", decision="accept"), said_of(two, "ann", decision="reject")]
    served.store.files.write("review/ann.jsonl", encode_decisions(lines) + b"damaged\n")
    answer = served.ask("review.jsonl?reviewer=ann")
    # Empty where another's line was, so that lines keep their numbers.
    assert answer.body == b"\n" + encode_decisions(lines[1:]) + b"damaged\n"


def test_the_end_waits_for_what_is_being_saved(served: Served) -> None:
    server = served.server
    assert server.drain(0)
    with server.saving():
        assert not server.drain(0)
        waiting = threading.Thread(target=server.drain, args=(60,))
        waiting.start()
        assert waiting.is_alive()
    waiting.join(60)
    assert not waiting.is_alive()
    assert server.drain(0)


def test_a_time_that_no_clock_shows_is_refused(served: Served) -> None:
    line = said_of(selected_rows(served.folder)[0], "ann", decision="accept").line()
    when = "9999-12-31T23:59:59-12:00"
    answer = served.save(line.replace("2026-01-31T12:00:00.000Z", when).encode())
    assert answer.status == 422
    assert b"outside the years 1 to 9999" in answer.body
