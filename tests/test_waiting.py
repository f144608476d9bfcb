"""Large images go alone to the decoders, and hold up other requests but once."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator

import pytest
from PIL import Image

from miner.passage import ORDER_IMAGES
from pipelines.serving import waiting as waiting_module
from pipelines.serving.batch_encoding import Ticket
from pipelines.serving.waiting import ORDER_PIXELS, Waiting, num_pixels


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    found = asyncio.new_event_loop()
    yield found
    found.close()


def written(format: str, width: int, height: int, **more: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, format, **more)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        written("PNG", 30, 70),
        written("JPEG", 30, 70),
        written("JPEG", 30, 70, progressive=True, exif=b"Exif\0\0" + b"\xff\xc0" * 500),
    ],
)
def test_sizes_are_read_from_headers(data: bytes) -> None:
    assert num_pixels(data) == 2100


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8",
        b"\xff\xd8" + b"\xff\xe0\x00\x00" * 100_000,
        written("JPEG", 30, 70)[:20],
        written("WEBP", 30, 70),
    ],
)
def test_of_what_is_not_known_it_says_that_it_is_large(data: bytes) -> None:
    assert num_pixels(data) > ORDER_PIXELS


def tickets_of(loop: asyncio.AbstractEventLoop, *images: bytes) -> list[Ticket]:
    return [Ticket(data, frozenset({"clip"}), loop.create_future(), 0.0) for data in images]


def test_small_images_go_in_the_order_in_which_they_came(loop: asyncio.AbstractEventLoop) -> None:
    waiting, small = Waiting(), written("PNG", 8, 8)
    first, second = tickets_of(loop, *[small] * 4), tickets_of(loop, *[small] * 2)
    waiting.add(first)
    waiting.add([])
    waiting.add(second)
    assert len(waiting) == 6
    assert waiting.take(3) == (first[:3], False)
    assert waiting.remove(second[0])
    assert not waiting.remove(second[0])
    assert not waiting.remove(first[0])
    assert waiting.take(9) == ([first[3], second[1]], False)
    assert len(waiting) == 0
    waiting.add(first)
    waiting.clear()
    assert (len(waiting), waiting.take(9)) == (0, ([], False))


def test_a_large_image_goes_alone_and_then_others_pass(loop: asyncio.AbstractEventLoop) -> None:
    waiting, small, large = Waiting(), written("PNG", 8, 8), written("PNG", 2000, 2000)
    many, few = tickets_of(loop, small, large, large, small), tickets_of(loop, small, small)
    waiting.add(many)
    waiting.add(few)
    assert waiting.take(9) == (many[:1], False)
    assert waiting.take(9) == (many[1:2], True)
    assert waiting.take(9) == (few, False)
    assert waiting.take(9) == (many[2:3], True)
    assert waiting.take(9) == (many[3:], False)


def test_an_order_is_bounded(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, small = Waiting(), written("PNG", 8, 8)
    waiting.add(tickets_of(loop, *[small] * 40))
    assert len(waiting.take(40)[0]) == ORDER_IMAGES
    monkeypatch.setattr(waiting_module, "ORDER_BYTES", len(small) - 1)
    assert waiting.take(40)[1]
    monkeypatch.setattr(waiting_module, "ORDER_BYTES", 2 * len(small))
    assert len(waiting.take(40)[0]) == 2
    monkeypatch.setattr(waiting_module, "ORDER_BYTES", 2**20)
    monkeypatch.setattr(waiting_module, "ORDER_PIXELS", 3 * 64)
    assert len(waiting.take(40)[0]) == 3
