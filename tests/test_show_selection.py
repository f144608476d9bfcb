import hashlib
from pathlib import Path

from miner.config import SelectSettings
from miner.select import select
from pipelines.show_selection import selection_facts
from tests.blind_runs import blind_run, name_of


def test_every_step_that_dropped_is_shown(tmp_path: Path) -> None:
    store = blind_run(tmp_path / "run", [{"label": label} for label in "aab"], [b"0", b"1", b"2"])
    listed = tmp_path / "list"
    listed.write_text(hashlib.sha256(b"0").hexdigest())
    settings = SelectSettings(labels="different", not_in=str(listed))
    facts = [*selection_facts(select(store, name_of(store), settings)["selection"])]
    assert facts == [
        ("asked for", '--labels "different" --not-in "list"'),
        ("not in", "1 images: 1 by sha256, none by phash, none by vectors"),
        ("  labels", "2 left; dropped 1 of the same label"),
        ("  not in the list", "1 left; dropped 1 an image of the list, by its bytes"),
        ("selected", "1"),
    ]
    assert [*selection_facts(select(store, name_of(store), SelectSettings())["selection"])] == [
        ("selected", "3")
    ]


def test_a_share_that_leaves_fewer_than_max_pairs_is_said() -> None:
    settings = SelectSettings(about="a dog", max_pairs=150, about_share=0.25)
    selection = {
        "settings": settings.model_dump(mode="json"),
        "counts": {"kept": 139, "not_about": 771, "near_copy_of_kept": 118},
    }
    assert [*selection_facts(selection)][-2:] == [
        ("selected", "139"),
        ("fewer", "than --max-pairs 150: --about-share 0.25 left 257; give a larger one"),
    ]
    whole = {**selection, "counts": {"kept": 150, "not_about": 771, "beyond_max_pairs": 107}}
    assert [*selection_facts(whole)][-1] == ("selected", "150")
