"""The service on Ray Serve: what replicas are given, and what one takes along when it dies."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from click.testing import CliRunner
from pydantic import ValidationError
from ray.cluster_utils import Cluster

from bench.pictures import generated
from bench.serve_raw import deviation_of, truth_of
from miner.client import Client
from miner.config import EmbedSettings
from miner.errors import ResourceError, ServiceError, StoreError
from pipelines.ray_cluster import Needs
from pipelines.ray_serve import check_here, start
from pipelines.replica_needs import needs_of
from pipelines.serve_ray import (
    RayServeSettings,
    Replica,
    app,
    application,
    deployed,
    serve_ray,
)
from tests.buckets import free_port
from tests.ray_clusters import cluster

__all__ = ["cluster"]

DEMO: dict[str, Any] = {"clip": "demo-clip", "dino": "demo-dino", "device": "cpu"}
TOKEN = "a token of the tests"
PATIENCE_S = 120.0

# Of Ray Serve's own models, when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


def settings(**changes: Any) -> RayServeSettings:
    return RayServeSettings(**DEMO | changes)


def test_what_ray_cannot_do_is_refused() -> None:
    with pytest.raises(ValidationError, match="port is 0: the proxy of Ray Serve"):
        settings(port=0)
    with pytest.raises(ValidationError, match="device is cuda:1: Ray gives each replica a GPU"):
        settings(device="cuda:1")


def test_replicas_share_the_cores_of_a_cluster() -> None:
    def needs(nodes: list[dict[str, float]], **changes: Any) -> str:
        return str(needs_of(settings(**changes), nodes, may_grow=False))

    assert needs([{"CPU": 2}], num_replicas=2) == "1 cores"
    assert needs([{"CPU": 6}], num_replicas=2) == "3 cores"
    assert needs([{"CPU": 64}], num_replicas=2) == "8 cores"
    assert needs([{"CPU": 4}, {"CPU": 3}], num_replicas=3) == "2 cores"
    assert needs([{"CPU": 64}], num_replicas=2, cores_per_replica=20) == "20 cores"
    gpus = [{"CPU": 8, "GPU": 2}, {"CPU": 32}]
    assert needs(gpus, num_replicas=2, device="auto") == "a GPU and 4 cores"
    assert needs(gpus, num_replicas=5) == "8 cores"


def test_replicas_without_room_wait_for_nodes_or_are_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nodes = [{"CPU": 8.0, "GPU": 1.0}]
    asked = settings(num_replicas=2, device="cuda")
    with pytest.raises(ResourceError, match="no room for 2 replicas, each with a GPU and 1 cores"):
        needs_of(asked, nodes, may_grow=False)
    with caplog.at_level(logging.WARNING):
        assert str(needs_of(asked, nodes, may_grow=True)) == "a GPU and 1 cores"
    assert "waiting for nodes to be added" in caplog.text


def test_replicas_get_two_batches_of_requests_and_the_rest_waits() -> None:
    asked = settings(num_replicas=3, max_batch=8, max_queue=100, drain_s=7)
    deployment = application(asked, Needs(num_gpus=1, num_cores=5))._bound_deployment
    assert deployment.num_replicas == 3
    assert deployment.max_ongoing_requests == 16
    assert deployment.max_queued_requests == 100
    options = deployment.ray_actor_options
    assert (options["num_cpus"], options["num_gpus"]) == (5, 1)
    given, token = deployment.init_args
    assert given == DEMO | {"max_batch": 8, "max_queue": 100, "drain_s": 7, "num_decoders": 3}
    assert token is None
    few = application(settings(max_requests=10), Needs(num_gpus=0, num_cores=5))._bound_deployment
    assert few.max_ongoing_requests == 10
    assert few.init_args[0]["num_decoders"] == 5


def test_a_replica_takes_the_token_that_the_command_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLINDPAIRS_TOKEN", "one that is there by chance")
    file = tmp_path / "token"
    file.write_text(TOKEN)
    bound = application(settings(token_file=file), Needs(num_gpus=0, num_cores=1))
    given, token = bound._bound_deployment.init_args
    assert token == TOKEN
    assert "token_file" not in given
    Replica(given, token)
    assert os.environ["BLINDPAIRS_TOKEN"] == TOKEN
    Replica(given, None)
    assert "BLINDPAIRS_TOKEN" not in os.environ


def test_listening_to_others_takes_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BLINDPAIRS_TOKEN", raising=False)
    with pytest.raises(ValueError, match="others than this machine could call"):
        application(settings(host="0.0.0.0"), Needs(num_gpus=0, num_cores=1))


def test_a_broken_replica_asks_to_be_replaced() -> None:
    replica = Replica(DEMO, None)
    replica.check_health()
    replica.__serve_build_asgi_app__().state.service = SimpleNamespace(status="broken")
    with pytest.raises(ResourceError, match="the decoders of the service stopped"):
        replica.check_health()


def test_ray_serve_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    monkeypatch.delattr(ray, "serve", raising=False)
    with pytest.raises(ResourceError, match=r'pip install "ray\[serve\]"'):
        application(settings(), Needs(num_gpus=0, num_cores=1))


def test_the_command_says_what_it_takes() -> None:
    shown = CliRunner().invoke(serve_ray, ["--help"]).output
    assert "--num-replicas" in shown
    assert "--max-batch" in shown


def test_what_cannot_start_is_said_before_anything_is_deployed(tmp_path: Path) -> None:
    port = free_port()
    check_here(settings(port=port))
    with pytest.raises(StoreError, match="holds no run"):
        check_here(settings(port=port, index=str(tmp_path)))
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(ResourceError, match=rf"--port {port}: cannot listen on 127.0.0.1"),
    ):
        check_here(settings(port=port))
    with (
        pytest.raises(ValueError, match="no encoder is called 'nothing'"),
        deployed(settings(clip="nothing")),
    ):
        raise AssertionError


def test_what_ray_says_of_replicas_that_do_not_start_is_one_line() -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("Deploying failed:\n" + "x" * 9000)

    with pytest.raises(
        ResourceError, match=r"did not start at 127\.0\.0\.1:8000 .Deploying"
    ) as info:
        start(SimpleNamespace(start=fails), settings(), None, "blindpairs")
    assert len(str(info.value)) < 500
    assert "\n" not in str(info.value)


@pytest.fixture(scope="module")
def url(cluster: Cluster) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLINDPAIRS_TOKEN", TOKEN)
        asked = settings(num_replicas=2, port=free_port(), decoders="thread", max_batch=8)
        with deployed(asked) as found:
            yield found


def replicas_of(cluster: Cluster) -> set[int]:
    """Processes of the replicas on the cluster's node."""
    (raylet,) = cluster.head_node.all_processes["raylet"]
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if command.startswith(b"ray::ServeReplica:") and parent == raylet.process.pid:
            found.add(int(path.name))
    return found


def test_replicas_give_the_vectors_of_the_encoders(url: str) -> None:
    images = generated(5)
    truth = truth_of(EmbedSettings(**DEMO), images)
    with Client(url, TOKEN) as client:
        assert client.ready()
        found = client.embed(images, request_images=2)
        assert found.indexes == [0, 1, 2, 3, 4]
        assert deviation_of(found.vectors, truth, found.indexes) < 1e-3
        assert found.vectors.keys() == truth.keys()
        with pytest.raises(ServiceError, match="422") as info:
            client.embed(b"no image")
    assert info.value.status == 422
    with Client(url) as stranger, pytest.raises(ServiceError, match="401"):
        stranger.embed(images)


class Caller(threading.Thread):
    """Asks again and again; what came of it, by the moment of asking."""

    def __init__(self, url: str, image: bytes, stop: threading.Event) -> None:
        super().__init__()
        self.url, self.image, self.stop = url, image, stop
        self.good: list[float] = []
        self.failed: list[tuple[float, ServiceError]] = []

    def run(self) -> None:
        with Client(self.url, TOKEN, retries=0) as client:
            while not self.stop.is_set():
                asked_s = time.monotonic()
                try:
                    client.embed(self.image)
                    self.good.append(asked_s)
                except ServiceError as error:
                    self.failed.append((asked_s, error))


def test_a_killed_replica_takes_only_its_own_requests_and_comes_back(
    url: str, cluster: Cluster
) -> None:
    before = replicas_of(cluster)
    assert len(before) == 2
    stop = threading.Event()
    callers = [Caller(url, image, stop) for image in generated(4)]
    for caller in callers:
        caller.start()
    try:
        _wait_for(lambda: all(len(caller.good) > 3 for caller in callers))
        os.kill(min(before), signal.SIGKILL)
        killed_s = time.monotonic()
        # The other one goes on meanwhile.
        _wait_for(lambda: all(c.good and c.good[-1] > killed_s for c in callers))
        _wait_for(lambda: len(replicas_of(cluster) - before) == 1)
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    for caller in callers:
        assert len(caller.failed) <= 1, caller.failed
        for asked_s, error in caller.failed:
            assert asked_s <= killed_s, error
    with Client(url, TOKEN) as client:
        assert client.embed(generated(8), request_images=1).errors == {}


def _wait_for(is_so: Any) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.1)


def test_a_serve_that_runs_already_is_left_alone(url: str) -> None:
    with (
        pytest.raises(ResourceError, match=r"Ray Serve runs already .*blindpairs"),
        deployed(settings(port=free_port())),
    ):
        raise AssertionError
    with Client(url, TOKEN) as client:
        assert client.ready()


ARGUMENTS = {"clip": "demo-clip", "dino": "demo-dino", "num_replicas": "2", "max_batch": "4"}


def test_a_cluster_that_runs_serve_builds_the_same_from_arguments(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLINDPAIRS_TOKEN", TOKEN)
    if not ray.is_initialized():
        ray.init(address=cluster.address, logging_level=logging.ERROR)
    deployment = app(ARGUMENTS)._bound_deployment
    assert deployment.num_replicas == 2
    assert deployment.max_ongoing_requests == 8
    assert deployment.ray_actor_options["num_cpus"] == 1


def test_serve_run_builds_before_it_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    bound = app(ARGUMENTS | {"host": "127.0.0.1", "device": "cpu"})._bound_deployment
    assert bound.ray_actor_options["num_cpus"] == 3


def test_a_proxy_of_which_nothing_is_known_takes_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BLINDPAIRS_TOKEN", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ValueError, match="others than this machine could call; give a token"):
        app(ARGUMENTS)
    app(ARGUMENTS | {"host": "127.0.0.1"})
    monkeypatch.setenv("BLINDPAIRS_TOKEN", TOKEN)
    assert app(ARGUMENTS)._bound_deployment.init_args[1] == TOKEN
