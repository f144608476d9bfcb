import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from miner.handoff import label_studio
from miner.records import Json
from miner.store import Store
from tests.handoff_runs import HOSTILE, deliver, originals_of, selected_of


@pytest.fixture(scope="module")
def folder(reviewed: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ls") / "out"
    deliver(reviewed, "label-studio", out)
    return out


def tasks_of(folder: Path) -> list[Json]:
    parts = sorted(folder.glob("tasks-*.json"))
    return [task for part in parts for task in json.loads(part.read_text("utf-8"))]


def interface(folder: Path) -> ElementTree.Element:
    return ElementTree.parse(folder / "config.xml").getroot()


def test_every_image_of_a_task_is_served_with_the_bytes_of_its_shard(
    reviewed: Store, folder: Path
) -> None:
    originals, rows = originals_of(reviewed), selected_of(reviewed)[:-2]
    tasks = tasks_of(folder)
    assert [task["data"]["pair_id"] for task in tasks] == [row["pair_id"] for row in rows]
    for task, row in zip(tasks, rows, strict=True):
        for number in (1, 2):
            prefix, path = task["data"][f"image_{number}"].split("?d=")
            assert prefix == "/data/local-files/"
            assert (folder / path).read_bytes() == originals[row[f"sha256_{number}"]]
            assert re.fullmatch(r"images/[0-9a-f]{64}\.(jpg|png|webp)", path)


def test_every_field_that_the_interface_shows_is_in_every_task(folder: Path) -> None:
    shown = {
        value[1:]
        for element in interface(folder).iter()
        if (value := element.get("value", "")).startswith("$")
    }
    assert shown == {"cosines", "image_1", "image_2", "caption_1", "caption_2"}
    for task in tasks_of(folder):
        assert all(isinstance(task["data"][name], str) for name in shown)


def test_every_control_acts_on_an_object_of_the_interface(folder: Path) -> None:
    tree = interface(folder)
    names = [element.get("name") for element in tree.iter() if element.get("name")]
    assert len(names) == len(set(names))
    objects = {element.get("name") for tag in ("Image", "Text") for element in tree.iter(tag)}
    controls = [*tree.iter("Choices"), *tree.iter("TextArea")]
    assert len(controls) == 8
    assert all(control.get("toName") in objects for control in controls)
    keys = [choice.get("hotkey") for choice in tree.iter("Choice")]
    assert keys == ["a", "r", *"123456789"]


def test_what_reviewers_said_comes_as_predictions_that_the_interface_knows(folder: Path) -> None:
    tree = interface(folder)
    kinds = {
        e.get("name"): e.tag.lower() for tag in ("Choices", "TextArea") for e in tree.iter(tag)
    }
    words = {
        choices.get("name"): {choice.get("value") for choice in choices}
        for choices in tree.iter("Choices")
    }
    for task in tasks_of(folder):
        (prediction,) = task["predictions"]
        said = {result["from_name"]: result for result in prediction["result"]}
        assert said["pattern"]["value"] == {"choices": ["quantity and count"]}
        assert said["question"]["value"] == {"text": [f"How many, {task['data']['rank']}?"]}
        for name, result in said.items():
            assert result["type"] == kinds[name]
            assert result["to_name"] == "image_1"
            if result["type"] == "choices":
                assert set(result["value"]["choices"]) <= words[name]


def test_pairs_that_nobody_reviewed_have_no_predictions(reviewed: Store, tmp_path: Path) -> None:
    deliver(reviewed, "label-studio", tmp_path / "out", reviewed="all")
    tasks = tasks_of(tmp_path / "out")
    assert [r["value"] for r in tasks[-1]["predictions"][0]["result"]] == [{"choices": ["reject"]}]
    assert len(tasks) == 66


def test_captions_stay_text(folder: Path) -> None:
    captions = {task["data"][f"caption_{n}"] for task in tasks_of(folder) for n in (1, 2)}
    assert set(HOSTILE) <= captions


def test_task_files_stay_within_what_label_studio_imports(
    reviewed: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_studio, "FILE_BYTES", 10_000)
    deliver(reviewed, "label-studio", tmp_path / "bytes")
    parts = sorted((tmp_path / "bytes").glob("tasks-*.json"))
    assert len(parts) > 3
    assert all(path.stat().st_size <= 10_000 for path in parts)
    monkeypatch.undo()
    monkeypatch.setattr(label_studio, "FILE_TASKS", 10)
    deliver(reviewed, "label-studio", tmp_path / "tasks")
    assert len(list((tmp_path / "tasks").glob("tasks-*.json"))) == 7
    assert tasks_of(tmp_path / "bytes") == tasks_of(tmp_path / "tasks") == tasks_of(folder)
