"""The join benchmark: vectors with known pairs, peers that are right, refusal where one is not."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from bench import peers_gpu
from bench.own import OwnJoin, own_providers
from bench.peers import PEERS, tiled_torch
from bench.peers_gpu import gpu_peers, two_pass_tiles
from bench.planting import CLIP_LADDER, DINO_LADDER, TOLERANCE
from bench.providers import IndexPairs, Join, Provider
from bench.truth import WrongPairsError, agreed_truth, check, keys_of, known_truth
from bench.vectors import SYNTHETIC, Vectors, crowd, synthetic
from kernels.reference import concatenate, cosines
from miner import join as miner_join

DIM, DINO_DIM, NUM_ROWS = 96, 64, 700

small = partial(synthetic, num_rows=NUM_ROWS, dim=DIM, dino_dim=DINO_DIM)

PROVIDERS = {provider.name: provider for provider in (*own_providers(), *PEERS)}
ON_GPU = {p.name: p for p in gpu_peers() if p.needs is None}


@pytest.fixture(scope="module", params=SYNTHETIC)
def vectors(request: pytest.FixtureRequest) -> Vectors:
    return small(request.param)


def fixed(i: list[int], j: list[int]) -> Join:
    """A join that always reports the same pairs."""
    pairs = torch.tensor(i, dtype=torch.int64), torch.tensor(j, dtype=torch.int64)
    return lambda *_: pairs


def provider_of(join: Join, *, exact: bool = True) -> Provider:
    return Provider(name="made-up", join=join, dtype="float32", exact=exact)


def blind_of(vectors: Vectors) -> IndexPairs:
    i, j = np.divmod(known_truth(vectors).keys_P, len(vectors))
    return torch.from_numpy(i), torch.from_numpy(j)


# -- vectors ----------------------------------------------------------------------------------


def test_vectors_follow_from_their_seed(vectors: Vectors) -> None:
    again, other = small(vectors.data), small(vectors.data, seed=1)
    assert torch.equal(vectors.clip_ND, again.clip_ND)
    assert torch.equal(vectors.dino_NE, again.dino_NE)
    assert not torch.equal(vectors.clip_ND, other.clip_ND)
    assert vectors.clip_ND.dtype == vectors.dino_NE.dtype == torch.float16
    assert vectors.shape == f"{NUM_ROWS}x{DIM}+{DINO_DIM}"


def test_planted_pairs_have_the_cosines_of_the_ladders(vectors: Vectors) -> None:
    planted = vectors.planted
    assert len(planted) == 40
    assert len(torch.cat((planted.i, planted.j)).unique()) == 80
    kind = np.arange(40)
    clip_cos = cosines(vectors.clip_ND, vectors.clip_ND, planted.i, planted.j)
    dino_cos = cosines(vectors.dino_NE, vectors.dino_NE, planted.i, planted.j)
    assert torch.equal(clip_cos, planted.clip_cos)
    assert torch.equal(dino_cos, planted.dino_cos)
    # Narrow rows have fewer coordinates to round this way or that.
    assert np.abs(clip_cos.numpy() - np.array(CLIP_LADDER)[kind % 8]).max() < 4 * TOLERANCE
    assert np.abs(dino_cos.numpy() - np.array(DINO_LADDER)[kind // 8 % 5]).max() < 40 * TOLERANCE


def test_wide_planted_pairs_lie_on_the_right_side_of_a_near_threshold() -> None:
    wide = synthetic("anisotropic", 200)
    wanted = np.array(CLIP_LADDER)[np.arange(40) % 8]
    assert np.abs(wide.planted.clip_cos.numpy() - wanted).max() < TOLERANCE
    assert len(blind_of(wide)[0]) == 18


def test_random_pairs_have_the_common_cosine_and_the_spectrum_decays() -> None:
    clip = small("anisotropic").clip_ND.double()
    products = clip @ clip.T
    off_diagonal = products[~torch.eye(len(clip), dtype=torch.bool)]
    assert float(off_diagonal.mean()) == pytest.approx(0.5, abs=0.02)
    centred = clip - clip.mean(dim=0)
    spectrum = torch.linalg.eigvalsh(centred.T @ centred).flip(0)
    slope = np.polyfit(np.log(np.arange(1, 41)), spectrum[:40].log().numpy(), 1)[0]
    assert slope == pytest.approx(-1, abs=0.2)


@pytest.mark.parametrize("data", ["clustered", "clustered-flat"])
def test_members_of_a_class_are_near_each_other(data: str) -> None:
    clustered = synthetic(data, 4000, dim=DIM, dino_dim=DINO_DIM)
    for rows_ND, within in ((clustered.clip_ND, 0.85), (clustered.dino_NE, 0.6)):
        products = (rows_ND.float() @ rows_ND.float().T).fill_diagonal_(-1)
        # With 4,000 rows in 1,000 classes nearly everyone's nearest row is of the same class.
        nearest = products.max(dim=1).values
        assert float(nearest.median()) == pytest.approx(within, abs=0.08)


def test_crowd_is_near_its_first_and_leaves_the_others_alone(vectors: Vectors) -> None:
    crowded, places = crowd(vectors, 100)
    others = np.setdiff1d(np.arange(NUM_ROWS), places.numpy())
    assert torch.equal(crowded.clip_ND[others], vectors.clip_ND[others])
    for rows_ND, near in ((crowded.clip_ND, 0.99), (crowded.dino_NE, 0.95)):
        copies_ND = torch.nn.functional.normalize(rows_ND[places].double())
        assert float((copies_ND @ copies_ND.T).min()) > near


def test_unknown_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"there are anisotropic, clustered, .* and demo"):
        synthetic("isotropic", 10)


# -- providers --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PROVIDERS, *ON_GPU])
def test_providers_find_the_references_pairs(
    name: str, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers_gpu, "QUERY_ROWS", 200)
    monkeypatch.setattr(peers_gpu, "TILE_BYTES", 200 * 300 * 4)
    provider = PROVIDERS[name] if name in PROVIDERS else ON_GPU[name]
    found = keys_of(provider.join(vectors.clip_ND, vectors.dino_NE, 0.95, 0.6), NUM_ROWS)
    recall = check(provider, found, known_truth(vectors), vectors)
    assert recall == 1.0 if provider.exact else 0.5 <= recall <= 1.0


def test_selection_over_many_tiles_is_whole_in_float32(
    vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers_gpu, "QUERY_ROWS", 128)
    monkeypatch.setattr(peers_gpu, "TILE_BYTES", 2 * 4 * 128 * 100)
    pairs = two_pass_tiles(vectors.clip_ND, vectors.dino_NE, 0.95, 0.6, dtype=torch.float32)
    assert np.array_equal(keys_of(pairs, NUM_ROWS), known_truth(vectors).keys_P)


@pytest.mark.parametrize("tile_rows", [64, 350, 1000])
def test_tiles_of_any_size_give_the_same_pairs(tile_rows: int, vectors: Vectors) -> None:
    tiled = partial(tiled_torch, dtype=torch.float32, tile_rows=tile_rows)
    found = keys_of(tiled(vectors.clip_ND, vectors.dino_NE, 0.95, 0.6), NUM_ROWS)
    assert np.array_equal(found, known_truth(vectors).keys_P)


def test_own_join_keeps_the_statistics_of_its_search(vectors: Vectors) -> None:
    own, search = OwnJoin("cpu", screen="int8-32"), miner_join.IMPLEMENTATIONS["cpu"]
    assert {value for value, _ in own.statistics().values()} == {None}
    i, _ = own(vectors.clip_ND, vectors.dino_NE, 0.95, 0.6)
    told = own.statistics()
    assert told["code width"] == (32.0, "int8")
    assert told["tiles hit"] == (1.0, "1 of 1")
    survivors, rechecked = told["survivors"][0], told["rechecked"][0]
    assert survivors is not None
    assert rechecked is not None
    assert survivors >= rechecked >= len(i)
    assert told["survivors"][1] == f"{survivors / (NUM_ROWS * (NUM_ROWS - 1) / 2):.2e} of the pairs"
    assert miner_join.IMPLEMENTATIONS["cpu"] is search
    assert OwnJoin("reference").statistics()["survivors"] == (None, "")


# -- truth ------------------------------------------------------------------------------------


def test_missing_pair_is_refused_of_an_exact_provider_and_counted_of_another(
    vectors: Vectors,
) -> None:
    i, j = blind_of(vectors)
    truth, kept = known_truth(vectors), keys_of((i[1:], j[1:]), NUM_ROWS)
    with pytest.raises(WrongPairsError, match=f"misses 1 of {len(i)} pairs"):
        check(provider_of(fixed([], [])), kept, truth, vectors)
    approximate = provider_of(fixed([], []), exact=False)
    assert check(approximate, kept, truth, vectors) == pytest.approx(1 - 1 / len(i))


@pytest.mark.parametrize("exact", [True, False])
def test_pair_that_is_not_blind_is_refused_of_everybody(exact: bool, vectors: Vectors) -> None:
    # The second planted pair has a CLIP cosine of 0.9499.
    i, j = blind_of(vectors)
    also = torch.cat((i, vectors.planted.i[1:2])), torch.cat((j, vectors.planted.j[1:2]))
    with pytest.raises(WrongPairsError, match=r"1 of .* pairs that are not blind"):
        check(
            provider_of(fixed([], []), exact=exact),
            keys_of(also, NUM_ROWS),
            known_truth(vectors),
            vectors,
        )


@pytest.mark.parametrize(
    ("i", "j", "message"),
    [
        ([1], [1], "not 0 <= i < j"),
        ([2], [1], "not 0 <= i < j"),
        ([0], [9], "not 0 <= i < j < 9"),
        ([0, 0], [1, 1], "1 pairs are reported twice"),
    ],
)
def test_malformed_pairs_are_refused(i: list[int], j: list[int], message: str) -> None:
    with pytest.raises(WrongPairsError, match=message):
        keys_of(fixed(i, j)(torch.empty(0), torch.empty(0), 0.0, 0.0), 9)


@pytest.mark.parametrize("offset", [-5e-7, 5e-7])
def test_pair_within_the_band_may_be_found_or_not(offset: float) -> None:
    cosine = 0.95 + offset
    clip = torch.tensor([[1, 0], [cosine, (1 - cosine**2) ** 0.5]], dtype=torch.float64)
    dino = torch.eye(2, dtype=torch.float64)
    pair = Vectors(data="made up", clip_ND=clip, dino_NE=dino, planted=concatenate([]))
    for found in (np.array([1]), np.array([], np.int64)):
        assert check(provider_of(fixed([], [])), found, known_truth(pair), pair) == 1.0


def test_large_truth_is_what_was_planted_and_what_anybody_found(
    vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = known_truth(vectors).keys_P
    monkeypatch.setattr("bench.truth.REFERENCE_ROWS", 10)
    planted = known_truth(vectors)
    assert planted.source == "18 planted pairs"
    not_blind = vectors.planted.i[1] * NUM_ROWS + vectors.planted.j[1]
    found = {"a": whole[:20], "b": np.append(whole[20:], int(not_blind))}
    truth = agreed_truth(planted, found, vectors)
    assert np.array_equal(truth.keys_P, whole)
    assert truth.source == "18 planted pairs and what a, b found"
