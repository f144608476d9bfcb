"""The protocol, and its execution in this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from miner.config import ExecutorSettings
from pipelines.executors import Inline, open_executor
from tests.misbehaving import Deed, Misbehaving


def deeds(number: int, taken: list[str]) -> Iterator[Deed]:
    for place in range(number):
        taken.append(f"d{place}")
        yield Deed(name=f"d{place}", takes_s=0.1)


def test_inline_reads_ahead_and_reports_in_order(tmp_path: Path) -> None:
    taken: list[str] = []
    steps: list[int] = []
    running = Inline().run(Misbehaving(folder=tmp_path), deeds(4, taken), on_progress=steps.append)
    first = next(running)
    assert (first.task.name, first.error, first.num_attempts) == ("d0", None, 1)
    assert taken == ["d0", "d1"]
    assert [outcome.task.name for outcome in running] == ["d1", "d2", "d3"]
    assert steps == [1, 1, 1, 1]
    assert len(list(tmp_path.glob("closed *"))) == 1


def test_inline_in_turn_takes_a_task_when_the_one_before_it_was_yielded(tmp_path: Path) -> None:
    taken: list[str] = []
    running = Inline().run(Misbehaving(folder=tmp_path), deeds(3, taken), in_turn=True)
    for place, _ in enumerate(running, 1):
        assert len(taken) == place
    assert len(taken) == 3


def test_inline_opens_nobody_for_nothing_and_closes_whom_it_opened(tmp_path: Path) -> None:
    work = Misbehaving(folder=tmp_path, opens="raises")
    assert list(Inline().run(work, [])) == []
    with pytest.raises(RuntimeError, match="a mistake at this task"):
        list(Inline().run(work, [Deed(name="a")]))
    work = Misbehaving(folder=tmp_path)
    with pytest.raises(RuntimeError, match="a mistake at this task"):
        list(Inline().run(work, [Deed(name="a", does="raises")]))
    running = Inline().run(Misbehaving(folder=tmp_path), deeds(3, []))
    next(running)
    (tmp_path / next(tmp_path.glob("closed *")).name).unlink()
    running.close()
    assert len(list(tmp_path.glob("closed *"))) == 1


def test_settings_choose_the_executor_and_connect_nothing() -> None:
    assert isinstance(open_executor(ExecutorSettings()), Inline)
    ray = ExecutorSettings(executor="ray")
    with open_executor(ray, "cuda") as executor:
        assert type(executor).__name__ == "RayExecutor"
    with pytest.raises(ValueError, match="--device cuda:1: with --executor ray, Ray gives each"):
        open_executor(ray, "cuda:1")
