"""What joins, encoders and the service are meant to reach, mostly as ratios on one machine."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.rows import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An upper limit on a metric of one provider.

    Attributes:
        name: the benchmark.
        provider: whose metric.
        metric: which one.
        data: on which vectors; empty for any.
        shape: N x D + E; empty for any.
        device: cpu or cuda; empty for any.
        at_most: the limit.
        said: the limit as one writes it.
    """

    name: str = "join"
    provider: str = "cpu"
    metric: str
    data: str = ""
    shape: str = ""
    device: str = ""
    at_most: float
    said: str

    def covers(self, row: Row) -> bool:
        """Whether the limit is about a row."""
        return (
            (row.name, row.provider, row.metric) == (self.name, self.provider, self.metric)
            and self.data in ("", row.data)
            and self.shape in ("", row.shape)
            and self.device in ("", "cpu" if "threads" in row.device else "cuda")
        )


TARGETS = (
    Target(
        metric="time / faiss-range",
        data="anisotropic",
        shape="50000x768+1024",
        at_most=1 / 12,
        said="1/12",
    ),
    Target(
        metric="time / torch-fp32",
        data="anisotropic",
        shape="50000x768+1024",
        at_most=1 / 10,
        said="1/10",
    ),
    Target(
        metric="time / faiss-range",
        data="anisotropic",
        shape="200000x768+1024",
        at_most=1 / 25,
        said="1/25",
    ),
    Target(
        metric="time / cpu-no-cascade", data="clustered", at_most=1.05, said="1, give or take 5 %"
    ),
    Target(
        metric="time / cpu-no-cascade",
        data="clustered-flat",
        at_most=1.05,
        said="1, give or take 5 %",
    ),
    Target(metric="peak memory", shape="200000x768+1024", at_most=600.0, said="600 MB"),
    Target(
        name="decode",
        provider="own",
        metric="time / pillow",
        at_most=1 / 1.8,
        said="1/1.8",
    ),
    Target(
        name="pipeline",
        provider="own",
        metric="time / clip-retrieval-style",
        at_most=1 / 2.5,
        said="1/2.5",
    ),
    Target(
        name="pipeline",
        provider="own",
        metric="share of read and write",
        at_most=0.1,
        said="0.1",
    ),
    Target(
        name="encode",
        provider="compile-bf16",
        metric="time / stock-fp32",
        data="both towers",
        at_most=1 / 3,
        said="1/3",
    ),
    Target(
        name="encode",
        provider="compile-bf16",
        metric="time / bound",
        data="both towers",
        device="cuda",
        at_most=1 / 0.85,
        said="1/0.85",
    ),
    Target(
        name="encode",
        provider="compile-bf16",
        metric="time / stock-tuned-bf16",
        data="both towers",
        device="cuda",
        at_most=1.0,
        said="1",
    ),
    Target(
        name="pipeline",
        provider="own",
        metric="time / encoders alone",
        device="cuda",
        at_most=1 / 0.95,
        said="1/0.95",
    ),
    Target(
        name="copies",
        provider="collapse near",
        metric="time / without copies",
        at_most=2.0,
        said="2",
    ),
    Target(
        name="lazy",
        provider="l14",
        metric="time / (eager - 90 % of DINO)",
        at_most=1.1,
        said="1.1",
    ),
    Target(
        name="scale", provider="ray, 1 worker", metric="time / inline", at_most=1.05, said="1.05"
    ),
    Target(
        name="scale",
        provider="ray, 2 workers",
        metric="time / 1 worker",
        at_most=1 / 1.8,
        said="1/1.8",
    ),
    Target(
        name="serve",
        provider="batched",
        metric="time / raw",
        data="b16",
        at_most=1 / 0.85,
        said="1/0.85",
    ),
    Target(
        name="serve",
        provider="batched",
        metric="time / faster of both",
        data="demo",
        at_most=1 / 2,
        said="1/2",
    ),
    Target(
        name="serve",
        provider="batched, 70 % load",
        metric="p99 / p50",
        at_most=5.0,
        said="5",
    ),
)


def judged(row: Row) -> Row:
    """The row with a word in its note on every target that is about it."""
    for target in TARGETS:
        if target.covers(row) and row.median is not None:
            verdict = "met" if row.median <= target.at_most else "missed"
            note = f"target <= {target.said}: {verdict}"
            row = replace(row, note="; ".join(filter(None, (row.note, note))))
    return row
