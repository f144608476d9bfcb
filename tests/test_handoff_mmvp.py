import csv
import io
from pathlib import Path

import pytest
from PIL import Image

from miner.store import Store
from tests.handoff_runs import (
    QUESTION,
    deliver,
    many_shots,
    originals_of,
    review,
    run_of,
    selected_of,
)


def questions(folder: Path) -> list[dict[str, str]]:
    with (folder / "Questions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(reviewed: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mmvp") / "out"
    deliver(reviewed, "mmvp", out)
    return out


def test_images_are_numbered_and_equal_to_the_bytes_of_their_shards(
    reviewed: Store, folder: Path
) -> None:
    originals, pairs = originals_of(reviewed), selected_of(reviewed)[:-2]
    names = {path.name for path in (folder / "MMVP Images").iterdir()}
    assert names == {f"{number}.jpg" for number in range(1, 2 * len(pairs) + 1)}
    for place, pair in enumerate(pairs):
        for number in (1, 2):
            path = folder / "MMVP Images" / f"{2 * place + number}.jpg"
            assert path.read_bytes() == originals[pair[f"sha256_{number}"]]


def test_a_loader_that_expects_jpg_opens_every_image(folder: Path) -> None:
    found = set()
    for path in (folder / "MMVP Images").iterdir():
        with Image.open(path) as image:
            image.load()
            found.add(image.format)
    assert found == {"JPEG", "PNG", "WEBP"}


def test_questions_have_the_columns_and_order_of_mmvp(reviewed: Store, folder: Path) -> None:
    rows = questions(folder)
    assert list(rows[0]) == ["Index", "Question", "Options", "Correct Answer"]
    assert [int(row["Index"]) for row in rows] == list(range(1, len(rows) + 1))
    for place, pair in enumerate(selected_of(reviewed)[:-2]):
        first, second = rows[2 * place : 2 * place + 2]
        rank = pair["rank"]
        assert first["Question"] == second["Question"] == f"How many, {rank}?"
        assert first["Options"] == second["Options"]
        assert {first["Correct Answer"], second["Correct Answer"]} == {"(a)", "(b)"}
        for row, right in ((first, f"one of {rank}"), (second, f"two of {rank}")):
            assert f"{row['Correct Answer']} {right}" in row["Options"]


def test_neither_order_of_options_is_the_rule(folder: Path) -> None:
    first_answers = [row["Correct Answer"] for row in questions(folder)[::2]]
    assert 0.25 < first_answers.count("(a)") / len(first_answers) < 0.75


def test_the_order_of_options_stays_when_there_are_fewer_pairs(
    reviewed: Store, folder: Path, tmp_path: Path
) -> None:
    deliver(reviewed, "mmvp", tmp_path / "few", limit=5)
    assert questions(tmp_path / "few") == questions(folder)[:10]


def test_texts_survive_whatever_they_hold(tmp_path: Path) -> None:
    store = run_of(tmp_path, many_shots(2))
    hostile = '=1+1 "quoted",\nnext line \u2028 \U0001f600'
    said = QUESTION | {"question": hostile, "option_1": "a, b", "option_2": 'c "d"'}
    review(store, selected_of(store), **said)
    deliver(store, "mmvp", tmp_path / "out")
    rows = questions(tmp_path / "out")
    assert [row["Question"] for row in rows] == [hostile, hostile]
    assert rows[0]["Options"] in ('(a) a, b (b) c "d"', '(a) c "d" (b) a, b')


def test_pairs_that_cannot_be_asked_about_are_listed(tmp_path: Path) -> None:
    store = run_of(tmp_path, many_shots(4))
    rows = selected_of(store)
    review(store, rows[:1], **QUESTION)
    review(store, rows[1:2], question="How many?", option_1="one")
    review(store, rows[2:3], **(QUESTION | {"option_1": "Same ", "option_2": "same"}))
    review(store, rows[3:4], **(QUESTION | {"option_1": "the (B) side"}))
    review(store, rows[4:])
    wanted = (
        r"mmvp: 5 of 6 pairs cannot be asked about: "
        rf"with an \(a\) or \(b\) within an option: 1 \({rows[3]['pair_id']}\); "
        rf"with the same option twice: 1 \({rows[2]['pair_id']}\); "
        rf"without option_2: 1 \({rows[1]['pair_id']}\); "
        rf"without question and option_1 and option_2: 2 \({rows[4]['pair_id']}, .*--skip-incompl"
    )
    with pytest.raises(ValueError, match=wanted):
        deliver(store, "mmvp", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    deliver(store, "mmvp", tmp_path / "out", skip_incomplete=True)
    assert [row["Index"] for row in questions(tmp_path / "out")] == ["1", "2"]


def test_skip_incomplete_leaves_no_empty_benchmark(tmp_path: Path) -> None:
    store = run_of(tmp_path, many_shots(2))
    with pytest.raises(ValueError, match="1 of 1 pairs cannot be asked about"):
        deliver(store, "mmvp", tmp_path / "out", skip_incomplete=True)


def test_reviewers_who_saw_the_images_turned_round_are_understood(tmp_path: Path) -> None:
    store = run_of(tmp_path, many_shots(2))
    (row,) = selected_of(store)
    other_way = row | {"sha256_1": row["sha256_2"], "sha256_2": row["sha256_1"]}
    review(store, [other_way], **QUESTION)
    deliver(store, "mmvp", tmp_path / "out")
    first, second = questions(tmp_path / "out")
    assert f"{first['Correct Answer']} two of" in first["Options"]
    assert f"{second['Correct Answer']} one of" in second["Options"]


def test_a_baked_orientation_turns_the_pixels(reviewed: Store, tmp_path: Path) -> None:
    deliver(reviewed, "mmvp", tmp_path / "out", bake_orientation=True)
    originals, out = originals_of(reviewed), tmp_path / "out" / "MMVP Images"
    turned = 0
    for place, pair in enumerate(selected_of(reviewed)[:-2]):
        for number in (1, 2):
            data = (out / f"{2 * place + number}.jpg").read_bytes()
            original = originals[pair[f"sha256_{number}"]]
            if data != original:
                with Image.open(io.BytesIO(data)) as new, Image.open(io.BytesIO(original)) as old:
                    assert new.format == "PNG"
                    assert new.size == old.size[::-1]
                    assert old.getexif()[274] == 6
                turned += 1
    assert turned > 0


def test_that_nobody_reviewed_is_said_first(tmp_path: Path) -> None:
    store = run_of(tmp_path, many_shots(3))
    with pytest.raises(ValueError, match="mmvp: nobody has reviewed a pair of this run"):
        deliver(store, "mmvp", tmp_path / "out")
