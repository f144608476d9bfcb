"""Bodies: base64, and JSON that is never more than its model."""

from __future__ import annotations

import asyncio
import base64

import pytest

from pipelines.serving.bodies import INLINE_BYTES, decode_base64, decode_one, parse
from pipelines.serving.errors import HttpError
from pipelines.serving.models import EmbeddingsRequest


@pytest.mark.parametrize("num_bytes", [0, 1, 2, 3, 1000, INLINE_BYTES])
def test_base64_comes_back(num_bytes: int) -> None:
    data = bytes(number % 256 for number in range(num_bytes))
    texts = [base64.b64encode(data).decode(), "?"]
    good, bad = asyncio.run(decode_base64(texts, "input"))
    assert good == data
    assert isinstance(bad, HttpError)
    assert bad.code == "invalid_base64"


@pytest.mark.parametrize("url", ["http://a", "HTTPS://a", " ftp://a", "file:///a", "data:a,b"])
def test_urls_are_not_fetched(url: str) -> None:
    found = decode_one(url, "input")
    assert isinstance(found, HttpError)
    assert found.said == {
        "message": "this service fetches no URLs; send the image's bytes themselves, or their "
        "base64",
        "type": "invalid_request_error",
        "code": "url_not_fetched",
        "param": "input",
    }


def test_a_refusal_repeats_nothing_of_the_request() -> None:
    with pytest.raises(HttpError, match="Extra inputs are not permitted") as caught:
        parse(b'{"input": "a", "' + b"secret" * 1000 + b'": 1}', EmbeddingsRequest)
    assert len(caught.value.message) < 300
    with pytest.raises(HttpError, match="valid string") as caught:
        parse(b'{"input": {"secret": 1}}', EmbeddingsRequest)
    assert "secret" not in caught.value.message
