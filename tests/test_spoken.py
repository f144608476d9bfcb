"""Which option an answer in words means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.measuring.spoken import parse_option

WINGS = ("Open", "Closed")


@pytest.mark.parametrize(
    "text",
    [
        *("b", "B", "(b)", "(B)", "b)", "B.", " b. ", "b:", "**B**", "'b'", "( b )"),
        *("The answer is (b)", "The answer is b.", "the answer is b because of the light"),
        *("Answer: B", "answer:(b)", "Option B", "The correct option is (b).", "My choice is b!"),
        *(
            "The answer to the question is (b).",
            "(b) Closed",
            "b) Closed",
            "B. Closed",
            "B: closed",
        ),
        *("closed", "Closed.", "The wings are closed.", "They're CLOSED, I think", "\uff22"),
        *("The answer is a closed wing", "(b), i.e. not like in the U.S.A.", "I\u2019d say (b)"),
        "An answer: it's closed",
    ],
)
def test_second_option(text: str) -> None:
    assert parse_option(text, WINGS) == 1


@pytest.mark.parametrize(
    "text",
    [
        *("", "c", "(c)", "yes", "Both are possible", "(a) or (b)", "either a) or b)"),
        *("open or closed", "The answer is a bird", "unclosedness"),
        *("Answer: C", "A bird", "I cannot tell.", "option a, or option b"),
    ],
)
def test_no_single_option(text: str) -> None:
    assert parse_option(text, WINGS) is None


def test_an_option_that_is_part_of_another() -> None:
    assert parse_option("a red car", ("red", "dark red")) == 0
    assert parse_option("a dark red car", ("red", "dark red")) == 1
    assert parse_option("dark red, not red", ("red", "dark red")) == 1


def test_options_that_are_letters() -> None:
    swapped = ("B", "A")
    assert parse_option("(a)", swapped) == 0
    assert parse_option("A", swapped) is None
    assert parse_option("A", ("A", "B")) == 0
    assert parse_option("K", ("K", "O")) == 0
    assert parse_option("the letter O", ("K", "O")) == 1
    assert parse_option("Vitamin B.", ("Vitamin B", "Vitamin C")) == 0


def test_four_options() -> None:
    options = ("on", "under", "to the left of", "to the right of")
    assert parse_option("The answer is (d)", options) == 3
    assert parse_option("It is to the left of the chair", options) == 2
    assert parse_option("same", ("same", "same")) is None


@given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=4))
def test_any_text_is_an_option_or_none(text: str, options: list[str]) -> None:
    found = parse_option(text, options)
    assert found is None or 0 <= found < len(options)


@pytest.mark.parametrize(
    "said",
    [
        *("{L}", "({L})", "[{L}]", "**{L}**", "\\boxed{{{L}}}", "$\\boxed{{\\text{{{L}}}}}$"),
        *("Answer: {L}", "**Answer:** {L}", "<answer>{L}</answer>", "Answer - {L}", "Answer\n{L}"),
        *("{L} is correct", "({L}) is the right one", "\u200b{L}\u200b", "Answer:\n\n{L}"),
        *("The answer is {L} because the eyes are not closed", "Option {L} shows it"),
        *("The answer is {L}", "The answer to the question is {L}", "The answer is option {L}."),
        *("The answer is '{L}'.", "{L}\nThe eyes are open, no wait", "{L}\n\nThe eyes are closed."),
        *("Answer: {L}\n\nThe eyes are not closed.", "The eyes are open.\n{L}"),
        *("The correct option is ({L}). Option ({O}) is wrong.", "not ({O}) but ({L})"),
        *("Option {O} is open. The answer is {L}.", "It isn't ({O}), it is ({L})"),
        *("It can't be ({O}). ({L})", "neither {O}. nor {O}: hence [{L}]"),
    ],
)
def test_both_letters_in_the_same_way(said: str) -> None:
    for place, (one, other) in enumerate([("A", "B"), ("B", "A")]):
        assert parse_option(said.format(L=one, O=other), WINGS) == place
        if "{L} shows" in said or " because" in said or "is {L}." in said:
            small = said.format(L=one.lower(), O=other.lower())
            assert parse_option(small, WINGS) == place


@pytest.mark.parametrize(
    "said",
    [
        *("It is not ({L}).", "It isn't ({L})", "never ({L})", "The answer is not {L}"),
        *("Option {L} is wrong", "({L}) is incorrect", "Neither ({L}) nor ({O})"),
        *("not option {L}", "{L} is correct, and {O} is correct"),
    ],
)
def test_a_letter_that_is_denied(said: str) -> None:
    for one, other in [("A", "B"), ("B", "A")]:
        assert parse_option(said.format(L=one, O=other), WINGS) is None


def test_words_that_are_denied() -> None:
    assert parse_option("It is not open but closed", WINGS) == 1
    assert parse_option("The eyes aren't closed.", WINGS) is None
    assert parse_option("neither open nor closed", WINGS) is None
    assert parse_option("they are not open or closed", WINGS) is None


def test_options_that_differ_in_symbols() -> None:
    for options in [("5", "-5"), ("C", "C++"), ("<", "<="), ("C#", "C++")]:
        for place, option in enumerate(options):
            for said in (f"'{option}'.", f"It is {option}.", f"{option} \n"):
                assert parse_option(said, options) == place, said
    assert parse_option("5", ("5", "-5")) == 0
    assert parse_option("\u22125", ("5", "-5")) == 1
    assert parse_option("C++", ("C", "C++")) == 1
