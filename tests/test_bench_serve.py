"""The benchmark of the service: one small run of it all, its checks, its rows and its picture."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient
from matplotlib import image

from bench import plot_serve
from bench.load import Driven
from bench.pictures import generated
from bench.rows import Row, append_rows, read_rows
from bench.serve import arguments_of, check, main, settings_of, shares_of
from bench.serve_plain import plain_app
from bench.serve_raw import RawRate, deviation_of, load, raw_rate, truth_of
from bench.serve_rows import Plan, Round, rows_of
from bench.served import Counts, Served, ServiceFailedError
from miner.client_answers import EmbeddingList, arranged
from miner.config import EmbedSettings

DEMO = EmbedSettings(
    clip="demo-clip", dino="demo-dino", device="cpu", decoders="thread", batch_size=4
)


def plan(**changes: object) -> Plan:
    fields = {
        "towers": "demo",
        "precision": "fp32",
        "decoders": "thread",
        "max_batch": 4,
        "connections": 8,
        "loads": (0.7,),
        "warm_s": 0.2,
        "seconds": 0.6,
        "repeats": 1,
    }
    return Plan(**fields | changes)  # type: ignore[arg-type]


def test_all_of_it_runs_in_small_and_is_drawn(tmp_path: Path) -> None:
    out, picture = tmp_path / "serve.csv", tmp_path / "serve.png"
    words = "--images 4 --max-batch 4 --loads 0.5 --warm-s 0.2 --seconds 2 --repeats 1 "
    words += "--decoders thread"
    ran = CliRunner().invoke(main, [*words.split(), "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    rows = {(row.provider, row.metric): row for row in read_rows(out)}
    for provider in ("raw", "batched", "one by one", "plain"):
        assert (rows[provider, "images/s"].median or 0) > 0
    for provider in ("batched", "one by one", "plain", "batched, 50 % load"):
        p50, p99 = (rows[provider, metric].median or 0 for metric in ("p50", "p99"))
        assert 0 < p50 <= p99
    assert rows["one by one", "images a batch"].median == 1
    assert 1 <= (rows["batched", "images a batch"].median or 0) <= 4
    assert rows["batched", "not answered"].median == 0
    assert "target <= 1/2" in rows["batched", "time / faster of both"].note
    drawn = CliRunner().invoke(plot_serve.main, [str(out), str(picture)])
    assert drawn.exit_code == 0, drawn.output
    assert image.imread(picture).std() > 0.05


def test_the_raw_rate_is_that_of_the_encoders_own_vectors() -> None:
    images = generated(6)
    truth = truth_of(DEMO, images)
    measured = raw_rate(DEMO, images, truth, warm_s=0.0, seconds=0.1)
    assert measured.images_per_s > 0
    assert measured.deviation < 1e-3
    truth[next(iter(truth))][3] *= -1
    assert raw_rate(DEMO, images, truth, warm_s=0.0, seconds=0.5).deviation == pytest.approx(2)


def test_the_plain_service_gives_the_encoders_own_vectors() -> None:
    images = generated(3)
    truth = truth_of(DEMO, images)
    with TestClient(plain_app(load(DEMO))) as client:
        for place, image_bytes in enumerate(images):
            answered = client.post("/v1/embeddings", content=image_bytes).content
            found = arranged(EmbeddingList.model_validate_json(answered), 1)
            assert found.vectors.keys() == truth.keys()
            assert deviation_of(found.vectors, truth, [place]) < 1e-3


def test_wrong_vectors_give_no_rows() -> None:
    check("served", 9e-4, "fp32")
    with pytest.raises(click.ClickException, match=r"served: a vector is 2\.0e-03 from"):
        check("served", 2e-3, "fp32")
    with pytest.raises(click.ClickException, match="a vector is nan from that of float32"):
        check("served", float("nan"), "bf16")


def test_both_towers_have_seeded_weights(tmp_path: Path) -> None:
    settings = settings_of(plan(towers="b16"), tmp_path)
    words = arguments_of(settings, 1)
    for name in ("clip", "dino"):
        file = tmp_path / f"{name}.safetensors"
        assert file.stat().st_size > 100 * 2**20
        assert words[words.index(f"--{name}-weights") + 1] == str(file)
    assert words[words.index("--max-wait-ms") + 1] == "0"
    assert "--max-wait-ms" not in arguments_of(settings, 8)


def driven(images_per_s: float, latencies_s: list[float], **statuses: int) -> Driven:
    return Driven(
        latencies_s=latencies_s,
        lags_s=[0.0],
        statuses=Counter({int(name[1:]): number for name, number in statuses.items()}),
        images_per_s=images_per_s,
        generator_cores=0.1,
    )


def rounds() -> list[Round]:
    counts = Counts(batches=5, images=15, encode_s=1.0)
    opened = driven(70, [0.01] * 90 + [0.049] * 10, s200=90, s429=10)
    return [
        Round(
            raw=RawRate(images_per_s=110, deviation=0.0),
            batched=(driven(100, [0.02], s200=100), counts),
            single=(driven(40, [0.05], s200=40), counts),
            plain=driven(55, [0.04], s200=55),
            opened={0.7: (opened, counts)},
        )
    ]


def test_rows_are_judged_by_the_ratios() -> None:
    rows = {(row.provider, row.metric): row for row in rows_of(plan(towers="b16"), rounds())}
    raw = rows["batched", "time / raw"]
    assert raw.median == pytest.approx(1.1)
    assert raw.note == "target <= 1/0.85: met"
    # That one is about the demo's encoders.
    assert rows["batched", "time / faster of both"].note == ""
    tail = rows["batched, 70 % load", "p99 / p50"]
    assert tail.median == pytest.approx(4.9)
    assert tail.note == "target <= 5: met"
    assert rows["batched, 70 % load", "not answered"].median == pytest.approx(0.1)
    assert rows["batched", "images a batch"].median == 3
    assert "70 requests/s" in rows["batched, 70 % load", "p99"].note
    rows = {(row.provider, row.metric): row for row in rows_of(plan(), rounds())}
    assert rows["batched", "time / one by one"].median == pytest.approx(0.4)
    assert rows["batched", "time / plain"].median == pytest.approx(0.55)
    # The target is about the better of those that answer one by one.
    assert rows["batched", "time / one by one"].note == ""
    assert rows["batched", "time / faster of both"].median == pytest.approx(0.55)
    assert rows["batched", "time / faster of both"].note == "target <= 1/2: missed"
    assert ("plain", "images a batch") not in rows
    assert rows["batched", "time / raw"].note == ""


def test_loads_are_shares() -> None:
    assert shares_of("0.3,1.2") == (0.3, 1.2)
    with pytest.raises(click.UsageError, match="each has to be above 0"):
        shares_of("0.3,0")
    with pytest.raises(click.UsageError, match="--loads x: could not convert"):
        shares_of("x")


def test_a_service_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ServiceFailedError, match=r"exit code 2(.|\n)*No such option"),
        Served(["--no-such-option"], tmp_path / "log") as service,
    ):
        service.wait()


def test_a_file_without_throughput_is_not_drawn(tmp_path: Path) -> None:
    out = tmp_path / "serve.csv"
    append_rows(out, [Row(name="serve", provider="raw", metric="images/s", median=1.0)])
    ran = CliRunner().invoke(plot_serve.main, [str(out), str(tmp_path / "serve.png")])
    assert ran.exit_code == 1
    assert "no throughput of the service" in ran.output
