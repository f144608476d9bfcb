"""The review server: where it listens, the page it gives, how it stops and what it survives."""

from __future__ import annotations

import logging
import socket
import threading
from pathlib import Path

import pytest

from miner.errors import ResourceError, StoreError
from miner.review import encode_decisions
from miner.reviewing.kept import decisions_of
from miner.reviewing.server import ReviewServer, hosts_of, ports_of
from miner.store import Store
from tests.buckets import objects, upload
from tests.review_servers import Served, module_served, served, serving
from tests.reviews import said_of, selected_rows

__all__ = ["module_served", "served"]


def test_it_listens_on_loopback_alone(served: Served) -> None:
    assert served.server.server_address[0] == "127.0.0.1"
    assert served.server.url == f"{served.origin}/{served.server.token}/"
    assert len(served.server.token) >= 20


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
