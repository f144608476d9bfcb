"""Reads a shard whole and checks the law of every shard on the way."""

from __future__ import annotations

import json

from miner.config import ImageLimits
from miner.fetch import read_image_bytes
from miner.law import Refusal
from miner.samples import Sample, ShardReader, ShardReport
from miner.schema import Reason
from miner.shards import Shard, checksum

LIMITS = ImageLimits(max_member_bytes=4000)
KEYS = ("000", "001", "002")


def read(
    shard: Shard, limits: ImageLimits = LIMITS
) -> tuple[dict[str, Sample], list[Refusal], ShardReport]:
    """What is left of a shard's samples, its refusals and its report, the law checked."""
    reader = ShardReader(shard, limits)
    kept: dict[str, Sample] = {}
    refusals: list[Refusal] = []
    for item in reader:
        if isinstance(item, Sample):
            assert item.key not in kept
            kept[item.key] = item
        else:
            if item.retracts:
                del kept[item.key]
            refusals.append(item)
    report = reader.report
    assert report.complete
    assert report.num_samples == len(kept) + len(refusals)
    assert sum(report.bytes.values()) == report.num_bytes == shard.num_bytes
    assert report.sha256 == checksum(shard)
    for found in kept.values():
        where = (shard.url, found.member, found.offset, len(found.data))
        assert read_image_bytes(*where) == found.data
        json.loads(found.meta)
    for text in (text for row in refusals for text in (row.key, row.member, row.detail)):
        text.encode()
    return kept, refusals, report


def rows_of(refusals: list[Refusal]) -> list[tuple[str, Reason]]:
    return sorted((refusal.key, refusal.reason) for refusal in refusals)
