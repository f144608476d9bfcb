from pathlib import Path

import pytest
import torch

from miner.config import SelectSettings
from miner.join import join
from miner.select import select
from miner.selecting.ranked_steps import num_of_share
from miner.store import Store
from tests.blind_runs import SETTINGS, blind_run, image, name_of, selected, selected_with, told
from tests.runs import CLIP, DINO, commit_shard, unit


def test_the_best_ranks_are_kept(tmp_path: Path) -> None:
    store = blind_run(tmp_path, [{}] * 5)
    selected_with(store)
    everything = [row["pair_id"] for row in selected(store)]
    assert selected_with(store, max_pairs=4) == {"beyond_max_pairs": 6, "kept": 4}
    assert [row["pair_id"] for row in selected(store)] == everything[:4]
    assert "not selected: 4 pairs have a better rank" in {told(store, 0, n) for n in range(1, 5)}
    assert selected_with(store, max_pairs=10) == {"kept": 10}


def logos(root: Path) -> Store:
    """75 pairs of two logos, all alike but no near-copies, and 6 pairs of something else each."""
    generator = torch.Generator().manual_seed(0)
    clips, dinos = [], []
    for number in range(81):
        subject = 0 if number < 75 else number - 74
        # Logos are the most alike, so that ranks are theirs.
        apart = 0.1 if number < 75 else 0.25
        clip, dino = torch.eye(8)[subject], torch.eye(32)[2 * subject]
        other = torch.eye(32)[2 * subject + 1]
        for side in range(2):
            clips.append(clip + apart * torch.randn(8, generator=generator) / 8**0.5)
            noise = 0.4 * torch.randn(32, generator=generator) / 32**0.5
            dinos.append((other if side else dino) + noise)
    store = Store(root)
    store.update_run({}, {}, {"command": "test"})
    commit_shard(store, "00000", unit(torch.stack(clips)), unit(torch.stack(dinos)))
    join(store, CLIP, DINO, SETTINGS, SelectSettings())
    return store


def test_150_pairs_are_not_150_logos(tmp_path: Path) -> None:
    store = logos(tmp_path)

    def subjects() -> list[int]:
        places = [int(row["image_1"][-6:]) // 2 for row in selected(store)]
        return [0 if place < 75 else place - 74 for place in places]

    near = {"near_clip": 0.9999, "near_dino": 0.9999, "max_per_image": 1}
    selected_with(store, **near)
    assert set(subjects()) == set(range(7))
    assert subjects().count(0) > 50
    assert selected_with(store, max_pairs=10, **near)["kept"] == 10
    assert len(set(subjects())) <= 2
    counts = selected_with(store, max_pairs=10, diverse=True, **near)
    assert counts["kept"] == 10
    assert counts["less_diverse"] > 50
    assert set(subjects()) == set(range(7))
    # In the order of ranks, the best of all among them.
    cosines = [row["clip_cos"] for row in selected(store)]
    assert cosines == sorted(cosines, reverse=True)
    best = selected(store)[0]["pair_id"]
    selected_with(store, **near)
    assert selected(store)[0]["pair_id"] == best


def test_diversity_of_few_pairs_is_all_of_them(tmp_path: Path) -> None:
    store = blind_run(tmp_path, [{}] * 3)
    assert selected_with(store, max_pairs=3, diverse=True) == {"kept": 3}
    assert selected_with(store, max_pairs=2, diverse=True) == {"kept": 2, "less_diverse": 1}
    said = {told(store, *pair) for pair in ((0, 1), (0, 2), (1, 2))}
    assert "not selected: the 2 pairs that were chosen are more unlike one another" in said


@pytest.mark.parametrize("cap", [1, 2, 3])
def test_near_copies_share_one_images_cap(tmp_path: Path, cap: int) -> None:
    store = Store(tmp_path)
    store.update_run({}, {}, {"command": "test"})
    # 0, 1 and 2 are near-copies; each is blind with 3 to 6.
    clip = torch.cat([torch.ones(7, 1), 0.2 * torch.eye(7)], dim=1)
    clip[:3, 1:] = 0.01 * torch.eye(7)[:3]
    dino = torch.eye(7)
    dino[:3] = torch.eye(7)[0] + 0.05 * torch.eye(7)[:3]
    commit_shard(store, "00000", unit(clip), unit(dino))
    join(store, CLIP, DINO, SETTINGS, SelectSettings())
    counts = select(store, name_of(store), SelectSettings(max_per_image=cap))["selection"]["counts"]
    copies = {image(0), image(1), image(2)}
    used = [row for row in selected(store) if copies & {row["image_1"], row["image_2"]}]
    assert len(used) == cap
    assert len({row["image_2"] for row in used}) == cap
    assert sum(counts.values()) == len(store.raw(name_of(store)))


def test_a_share_is_what_was_written() -> None:
    assert [num_of_share(0.07, num) for num in (99, 100, 101)] == [7, 7, 8]
    assert (num_of_share(1, 3), num_of_share(1e-9, 3)) == (3, 1)
