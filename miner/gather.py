"""What the blocks of a join found, put together.

Shape suffixes: P pairs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from kernels.reference import Pairs, cosines
from miner.blocks import Block, read_block
from miner.config import JoinSettings
from miner.packs import Pack
from miner.pairs import Histogram, random_pairs
from miner.partners import Partners
from miner.records import Json
from miner.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What the blocks of a join found.

    Attributes:
        pairs: [P], those that are kept, as places among the rows by image_id.
        histogram: of all candidates, and of random pairs.
        counts: candidates, and what was cut.
        search: how it was searched.
    """

    pairs: Pairs
    histogram: Histogram
    counts: Json
    search: Json


def gather(
    store: Store,
    stage: str,
    blocks: list[Block],
    names: list[str],
    packs: list[Pack],
    settings: JoinSettings,
    *,
    with_random: bool = True,
) -> Gathered:
    """Read all blocks, and cut what images with very many partners have too much.

    Args:
        store: the run directory.
        stage: `blocks/<join name>`.
        blocks: of the join.
        names: what they are committed as.
        packs: the rows of the join, one pack or two.
        settings: what was sought.
        with_random: whether random pairs are drawn; not where the rows are no random images.
    """
    first, second = packs[0], packs[-1]
    partners = Partners(settings, len(first), None if len(packs) == 1 else len(second))
    histogram = Histogram()
    searched = Counter[str]()
    screens: set[str] = set()
    search: Json = {"num_blocks": len(blocks)} | ({"knn": None} if settings.join == "knn" else {})
    num_candidates = num_found = 0
    for block, name in zip(blocks, names, strict=True):
        held, record = read_block(store, stage, name)
        num_candidates += record["num_candidates"]
        num_found += record["num_found"]
        histogram.merge(record["histogram"])
        search |= {} if record["knn"] is None else {"knn": record["knn"]}
        done = record["statistics"]
        if done["screen"]:
            screens.add(f"{done['screen']}-{done['width']}")
            searched.update({name: done[name] for name in done if name.startswith("num_")})
        _add(partners, block, held, record, packs)
    kept = partners.kept()
    if with_random:
        _count_random(histogram, packs)
    if screens:
        search |= {"screens": sorted(screens), **dict(sorted(searched.items()))}
    counts = {
        "candidates": num_candidates,
        "cut_pairs": num_found - len(kept),
        "cut_images": int((partners.degree > settings.max_partners).sum()),
    }
    return Gathered(pairs=kept, histogram=histogram, counts=counts, search=search)


def _add(partners: Partners, block: Block, held: Pairs, record: Json, packs: list[Pack]) -> None:
    """Add a block's pairs, and the degrees of those that it dropped."""
    i_of = packs[0].places[block.first.start : block.first.stop]
    j_of = packs[-1].places[block.second.start : block.second.stop]
    i, j = i_of[held.i.numpy()], j_of[held.j.numpy()]
    if len(packs) == 1:
        i, j = np.minimum(i, j), np.maximum(i, j)
    partners.add(
        Pairs(
            i=torch.from_numpy(i),
            j=torch.from_numpy(j),
            clip_cos=held.clip_cos,
            dino_cos=held.dino_cos,
        )
    )
    # Rows of the block's two sides, the second numbered on from the first.
    ends = i_of if block.within else np.concatenate([i_of, j_of + partners.offset])
    rows = ends[record["dropped"]["rows"]]
    np.add.at(partners.degree, rows, np.array(record["dropped"]["partners"], np.int64))


def _count_random(histogram: Histogram, packs: list[Pack]) -> None:
    first, second = packs[0], packs[-1]
    i, j = random_pairs(len(first), None if len(packs) == 1 else len(second))
    # Drawn among the rows by image_id, wherever they lie.
    i, j = torch.from_numpy(first.by_id)[i], torch.from_numpy(second.by_id)[j]
    histogram.add(
        "random",
        cosines(first.clip_ND, second.clip_ND, i, j),
        cosines(first.dino_NE, second.dino_NE, i, j),
    )
