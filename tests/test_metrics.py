import socket
import urllib.request

import click
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from miner.errors import ResourceError
from miner.stats import Stats
from pipelines import metrics


def scraped(port: int) -> dict[tuple[str, str], float]:
    """Samples by name and first label, as Prometheus itself would read them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_was_done_is_served_while_it_is_done() -> None:
    with metrics.served(0) as port:
        assert port is not None
        before = scraped(port)
        metrics.images(7)
        metrics.shard("embedded", Stats(seconds={"read": 0.5, "clip": 2.0}), 3)
        metrics.parts("embedding", 2, 5)
        after = scraped(port)
    grown = {name: after[name] - before.get(name, 0.0) for name in after}
    assert grown["blindpairs_images_total", ""] == 7
    assert grown["blindpairs_quarantined_total", ""] == 3
    assert grown["blindpairs_shards_total", "embedded"] == 1
    assert grown["blindpairs_stage_seconds_total", "clip"] == pytest.approx(2.0)
    with pytest.raises(OSError, match="refused"):
        scraped(port)


def test_a_free_port_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with metrics.served(0) as port:
        assert capsys.readouterr().err == f"metrics at http://127.0.0.1:{port}/metrics\n"


def test_no_port_unless_one_is_asked_for() -> None:
    with metrics.served(None) as port:
        assert port is None


def test_only_this_machine_is_listened_to() -> None:
    with metrics.served(0) as port, socket.socket() as other:
        assert port is not None
        # The same port on all other addresses is still free.
        other.bind(("127.0.0.2", port))


def test_a_port_that_is_taken() -> None:
    with (
        metrics.served(0) as port,
        pytest.raises(ResourceError, match="cannot listen on 127"),
        metrics.served(port),
    ):
        pass


def test_a_command_is_served_while_it_runs() -> None:
    @click.command()
    @metrics.metrics_options
    def command() -> None:
        assert ("blindpairs_images_total", "") in scraped(port)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = CliRunner().invoke
    assert run(command, ["--metrics-port", str(port)]).exception is None
    assert isinstance(run(command, []).exception, OSError)
    assert "70000 is not in the range" in run(command, ["--metrics-port", "70000"]).output
