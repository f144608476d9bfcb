"""Who is tried again, when, and beside whom."""

import pytest

from miner.errors import ResourceError
from pipelines.attempts import MOST_FAILURES, MOST_IN_A_ROW, MOST_REMOVALS, Attempts
from tests.misbehaving import Deed


def attempts_of(names: str, *, in_turn: bool = False) -> Attempts[Deed, str]:
    attempts: Attempts[Deed, str] = Attempts((Deed(name=name) for name in names), in_turn=in_turn)
    attempts.look_ahead(len(names))
    return attempts


def test_tasks_go_out_in_their_order_and_end() -> None:
    attempts = attempts_of("ab")
    first = attempts.hand_out([])
    assert first is not None
    second = attempts.hand_out([first])
    assert second is not None
    assert (first.task.name, second.task.name) == ("a", "b")
    assert attempts.hand_out([]) is None
    attempts.look_ahead(1)
    assert not attempts.is_done
    assert attempts.settle(second, "done").num_attempts == 1
    attempts.settle(first, "done")
    assert attempts.is_done


def test_in_turn_a_task_is_taken_when_the_one_before_it_is_settled() -> None:
    taken = []

    def tasks() -> object:
        for name in "abc":
            taken.append(name)
            yield Deed(name=name)

    attempts: Attempts[Deed, str] = Attempts(tasks(), in_turn=True)  # type: ignore[arg-type]
    attempts.look_ahead(9)
    first = attempts.hand_out([])
    assert first is not None
    attempts.look_ahead(9)
    assert attempts.hand_out([]) is None
    assert attempts.lose([first], "died", removed=False) == []
    attempts.look_ahead(9)
    again = attempts.hand_out([])
    assert again is first
    assert taken == ["a"]
    attempts.settle(first, "done")
    attempts.look_ahead(9)
    assert taken == ["a", "b"]


def test_what_a_failed_worker_had_in_hand_is_tried_alone_and_last() -> None:
    attempts = attempts_of("abcd")
    first, second = (attempts.hand_out([]) for _ in range(2))
    assert first is not None
    assert second is not None
    assert attempts.lose([first, second], "died", removed=False) == []
    assert (first.failures, second.failures) == (["died"], [])
    fresh = attempts.hand_out([])
    assert fresh is not None
    assert fresh.task.name == "c"
    assert attempts.hand_out([fresh]) is not None
    # Nothing fresh is left, and this worker has other work.
    assert attempts.hand_out([fresh]) is None
    assert attempts.hand_out([]) is first
    assert attempts.hand_out([first]) is None
    outcome = attempts.settle(first, "done")
    assert (outcome.num_attempts, outcome.error) == (2, None)


def test_a_task_is_given_up_after_three_failures_of_its_own() -> None:
    attempts = attempts_of("ab")
    poison, neighbour = (attempts.hand_out([]) for _ in range(2))
    assert poison is not None
    assert neighbour is not None
    assert attempts.lose([neighbour, poison], "fell", removed=False) == []
    assert attempts.hand_out([]) is neighbour
    attempts.settle(neighbour, "done")
    for number in range(MOST_FAILURES):
        assert attempts.hand_out([]) is poison
        given_up = attempts.lose([poison], f"fell {number}", removed=False)
    (outcome,) = given_up
    assert outcome.report is None
    assert outcome.num_attempts == 3
    assert outcome.error == "given up after 3 attempts: 1. fell 0; 2. fell 1; 3. fell 2"
    assert attempts.hand_out([]) is None


def test_a_worker_that_was_taken_away_blames_nobody_for_long() -> None:
    attempts = attempts_of("ab")
    first = attempts.hand_out([])
    assert first is not None
    for _ in range(MOST_REMOVALS - 1):
        assert attempts.lose([first], "node gone", removed=True) == []
        # At once, and beside others.
        assert attempts.hand_out([]) is first
    (outcome,) = attempts.lose([first], "node gone", removed=True)
    assert outcome.error == f"given up: its worker was taken away {MOST_REMOVALS} times"


def test_where_every_worker_fails_no_task_is_to_blame() -> None:
    names = "abcdefghijklmnopqrst"
    attempts = attempts_of(names)

    def fail() -> None:
        attempt = attempts.hand_out([])
        assert attempt is not None
        attempts.lose([attempt], "no such instruction", removed=False)

    for _ in range(MOST_IN_A_ROW - 1):
        fail()
    fine = attempts.hand_out([])
    assert fine is not None
    attempts.settle(fine, "done")
    for _ in range(len(names) - MOST_IN_A_ROW):
        fail()
    # Those that failed before may fail on, one by one.
    for _ in range(MOST_IN_A_ROW):
        fail()
    attempts = attempts_of(names)
    for _ in range(MOST_IN_A_ROW - 1):
        fail()
    with pytest.raises(ResourceError, match=r"12 workers in a row failed.*no such instruction"):
        fail()
