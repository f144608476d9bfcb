import pytest

from pipelines.fleet import FLEETS, HOPPER_FLOPS_PER_S, Corpus, share

LAION_ART = Corpus(
    num_images=8_000_000,
    num_bytes=8_000_000 * 40_000,
    flops=324e9,
    clip_width=768,
    dino_width=1024,
)


def test_encoders_share_and_read_in_proportion() -> None:
    one, eight, many = (share(LAION_ART, number, HOPPER_FLOPS_PER_S) for number in FLEETS)
    # 8 M images at 324 GFLOP are 2.6 EFLOP.
    assert one.encode_s == pytest.approx(8e6 * 324e9 / 584e12)
    assert one.encode_s / eight.encode_s == pytest.approx(8)
    assert one.images_per_s == many.images_per_s == pytest.approx(584e12 / 324e9)
    assert many.read_bytes_per_s == pytest.approx(one.images_per_s * 40_000)
    assert one.join_s / many.join_s == pytest.approx(64)
    assert one.join_s == pytest.approx(8e6 * 8e6 * 768 / 584e12, rel=1e-6)


def test_a_join_has_no_more_to_hand_out_than_its_blocks() -> None:
    small = Corpus(
        num_images=100_000, num_bytes=10**9, flops=324e9, clip_width=768, dino_width=1024
    )
    assert share(small, 1, 1e12).join_s == share(small, 64, 1e12).join_s
    assert share(small, 1, 1e12).join_bytes == 100_000 * 2 * (768 + 1024)


def test_memory_of_a_block_is_two_segments() -> None:
    rows = 8_000_000 // 62
    assert share(LAION_ART, 8, 1e12).join_bytes == pytest.approx(2 * rows * 3584, rel=0.01)


def test_nothing_to_mine_takes_no_time() -> None:
    empty = Corpus(num_images=0, num_bytes=0, flops=1e9, clip_width=8, dino_width=8)
    assert share(empty, 8, 1e12).encode_s == 0
