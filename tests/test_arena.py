import multiprocessing
import re
from multiprocessing.connection import Connection

import pytest

from miner.arena import PLACE_BYTES, Arena
from miner.decode_process import warm_up


def test_places_share_no_byte() -> None:
    arena = Arena(2)
    full, parts = b"x" * PLACE_BYTES, [b"one", b"", b"three"]
    assert arena.put(0, [full]) == (PLACE_BYTES,)
    lengths = arena.put(1, parts)
    assert lengths == (3, 0, 5)
    assert arena.take(0, [PLACE_BYTES]) == [full]
    assert arena.take(1, lengths) == parts
    arena.close()


def test_what_is_taken_stays_when_the_place_is_used_again() -> None:
    arena = Arena(1)
    arena.put(0, [b"first"])
    taken = arena.take(0, [5])
    arena.put(0, [b"other"])
    assert taken == [b"first"]
    arena.close()


def test_images_that_do_not_fit_are_refused() -> None:
    arena = Arena(1)
    said = f"images of {PLACE_BYTES + 1} bytes, and a place has {PLACE_BYTES}"
    with pytest.raises(ValueError, match=said):
        arena.put(0, [bytes(PLACE_BYTES), b"x"])
    arena.close()


def take(arena: Arena, told: Connection) -> None:
    """In another process: what lies there, and whether it can be changed."""
    told.send(arena.take(1, [5]))
    try:
        arena.put(1, [b"wrong"])
    except TypeError as error:
        told.send(str(error))


def test_another_process_reads_and_cannot_write() -> None:
    arena = Arena(2)
    arena.put(1, [b"right"])
    warm_up()
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=take, args=(arena, theirs))
    process.start()
    assert ours.recv() == [b"right"]
    assert re.search("read-?only", ours.recv())
    process.join()
    assert arena.take(1, [5]) == [b"right"]
    arena.close()
