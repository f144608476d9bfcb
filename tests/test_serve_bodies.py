"""Bodies: base64, and JSON that is never more than its model."""

from __future__ import annotations

import asyncio
import base64
import tracemalloc

import pytest

from pipelines.serving.bodies import INLINE_BYTES, decode_base64, decode_one, parse
from pipelines.serving.errors import HttpError
from pipelines.serving.models import EmbeddingsRequest


@pytest.mark.parametrize("num_bytes", [0, 1, 2, 3, 1000, INLINE_BYTES, 3 * 2**18 + 1])
def test_base64_comes_back(num_bytes: int) -> None:
    data = bytes(number % 256 for number in range(num_bytes))
    texts = [base64.b64encode(data).decode(), "?"]
    good, bad = asyncio.run(decode_base64(texts, "input"))
    assert good == data
    assert isinstance(bad, HttpError)
    assert bad.code == "invalid_base64"


def test_base64_as_others_write_it() -> None:
    data = bytes(range(256)) * 2000
    text = base64.b64encode(data).decode()
    assert decode_one(base64.encodebytes(data).decode(), "input") == data
    assert decode_one(f"data:image/svg+xml;base64,{text}", "input") == data
    # Two texts one behind the other, the first of which ends where a piece does.
    first = base64.b64encode(bytes(3 * 2**16 - 1)).decode()
    for bad in (first + text, text[:-1], text + "=", "=" + text, text[:9] + " " + text[9:]):
        found = decode_one(bad, "input")
        assert isinstance(found, HttpError)
        assert found.code == "invalid_base64"


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


@pytest.mark.parametrize("body", [b'{"input": [' + b"1," * 10**6, b'{"a":[{' * 10**6])
def test_a_body_of_many_values_is_not_looked_at(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(HttpError, match="the body has more than 8192 values"):
            parse(body, EmbeddingsRequest)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    images = b'{"input": [' + b'"",' * 4095 + b'""]}'
    assert len(parse(images, EmbeddingsRequest).input) == 4096


def test_a_refusal_repeats_nothing_of_the_request() -> None:
    with pytest.raises(HttpError, match="Extra inputs are not permitted") as caught:
        parse(b'{"input": "a", "' + b"secret" * 1000 + b'": 1}', EmbeddingsRequest)
    assert len(caught.value.message) < 300
    with pytest.raises(HttpError, match="valid string") as caught:
        parse(b'{"input": {"secret": 1}}', EmbeddingsRequest)
    assert "secret" not in caught.value.message
