"""What a service says when it refuses, in its own words or not."""

from __future__ import annotations

import json

import pytest

from miner.client_refusals import image_problem, is_too_much, refusal_of


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        ({"message": "large", "type": "t", "code": "big"}, "413 .big.: large$", "big"),
        ({"message": "large", "type": "t"}, "413 .t.: large$", "t"),
        ({"message": ""}, "says nothing more", None),
    ],
)
def test_refusals_are_errors_with_status_and_code(
    error: object, said: str, code: str | None
) -> None:
    found = refusal_of("http://a/x", 413, json.dumps({"error": error}).encode())
    with pytest.raises(type(found), match=said):
        raise found
    assert (found.status, found.code) == (413, code)


def test_what_is_not_the_services_own_is_repeated_in_part() -> None:
    assert str(refusal_of("http://a/x", 500, b"<html>")) == "http://a/x answered 500: <html>"
    assert str(refusal_of("http://a", 500, b"x" * 9000)).endswith(": " + "x" * 500)
    assert "says nothing more" in str(refusal_of("http://a", 500, b""))


def test_which_refusals_are_about_the_one_image() -> None:
    def body(code: str) -> bytes:
        return json.dumps({"error": {"message": "m", "code": code}}).encode()

    problem = image_problem(422, body("unknown_format"))
    assert problem is not None
    assert (problem.message, problem.code) == ("m", "unknown_format")
    assert image_problem(413, body("body_too_large")) is not None
    assert image_problem(422, body("unknown_encoder")) is None
    assert image_problem(500, body("unknown_format")) is None
    assert image_problem(422, b"<html>") is None
    assert is_too_much(413, b"")
    assert is_too_much(422, body("too_many_images"))
    assert not is_too_much(422, body("unknown_format"))
