import numpy as np
import torch

from miner.copies import collapse_exact, collapse_near, near_copies
from miner.rows import Rows


def rows(clip: torch.Tensor, dino: torch.Tensor, sha256: str) -> Rows:
    number = len(clip)
    return Rows(
        image_ids=[f"d/s/{row}" for row in range(number)],
        sha256=list(sha256),
        duplicates=np.zeros(number, np.int64),
        clip_ND=clip,
        dino_NE=dino,
    )


def test_exact_copies_keep_the_first_and_count_the_rest() -> None:
    vectors = torch.arange(10.0).reshape(5, 2)
    kept = collapse_exact(rows(vectors, vectors, "abaca"))
    assert kept.image_ids == ["d/s/0", "d/s/1", "d/s/3"]
    assert kept.duplicates.tolist() == [2, 0, 0]
    assert kept.clip_ND.tolist() == vectors[[0, 1, 3]].tolist()


def test_near_copies_need_both_encoders_and_make_no_chains() -> None:
    # Neighbours are near-copies; rows two steps apart are not.
    angle = torch.tensor([0.0, 0.1, 0.2, 0.3, 1.5, 0.05])
    clip = torch.stack([angle.cos(), angle.sin()], dim=1)
    dino = clip.clone()
    dino[5] = torch.tensor([-1.0, 0.0])
    leaders = near_copies(clip, dino, near_clip=0.99, near_dino=0.95)
    assert leaders.tolist() == [0, 0, 2, 2, 4, 5]


def test_near_collapse_adds_up_the_copies() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.01]])
    once = collapse_exact(rows(vectors, vectors, "abac"))
    kept = collapse_near(once, near_clip=0.99, near_dino=0.95)
    assert kept.image_ids == ["d/s/0", "d/s/1"]
    assert kept.duplicates.tolist() == [2, 0]


def test_nothing_to_group() -> None:
    empty = torch.empty(0, 3)
    assert near_copies(empty, empty, near_clip=0.9, near_dino=0.9).tolist() == []
    apart = torch.eye(4)
    assert near_copies(apart, apart, near_clip=0.9, near_dino=0.9).tolist() == [0, 1, 2, 3]
