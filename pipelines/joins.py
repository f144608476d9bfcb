"""The joins of a run: which one a name stands for, and what is done with it."""

from __future__ import annotations

from dataclasses import replace

from pydantic import ValidationError

from miner.audit import collect_garbage
from miner.block_work import HandOut, in_turn
from miner.config import JoinSettings, SelectSettings
from miner.errors import StoreError
from miner.join import join
from miner.pairs import join_name
from miner.partial import Late
from miner.records import Json
from miner.select import check_leaves_something, select
from miner.store import Store
from miner.why import Explanation, explain, images_of_pair
from pipelines.progress import JoinProgress


def join_and_select(
    store: Store,
    clip: str,
    dino: str,
    how: JoinSettings,
    which: SelectSettings,
    *,
    hand_out: HandOut = in_turn,
    lazy: bool = False,
    late: Late | None = None,
) -> Json:
    """Join two encoders' vectors and select from the pairs; the content of join.json."""
    how = with_own_thresholds(store, clip, dino, how)
    check_leaves_something(how.clip_above, which, [store])
    with store.writing(), store.remembering():
        with JoinProgress() as progress:
            late = late and replace(late, on_image=progress.image)
            join(
                store, clip, dino, how, which, progress.at, hand_out=hand_out, lazy=lazy, late=late
            )
        record = select(store, join_name(clip, dino, how), which)
    collect_garbage(store)
    return record


def with_own_thresholds(store: Store, clip: str, dino: str, how: JoinSettings) -> JoinSettings:
    """The settings, with the encoders' own thresholds where none were given.

    Thresholds do not carry over from one pair of encoders to another, so a record may have its own.
    """
    given = {name: getattr(how, name) for name in how.model_fields_set}
    for encoder_id, name in ((clip, "clip_above"), (dino, "dino_below")):
        for commit in store.committed(f"vectors/{encoder_id}")[:1]:
            own = store.record(f"vectors/{encoder_id}", commit)["encoder"][name]
            if own is not None:
                given.setdefault(name, own)
    try:
        return JoinSettings(**given)
    except ValidationError as error:
        raise ValueError(f"with the encoders' own thresholds: {error}") from error


def select_again(store: Store, name: str | None, settings: SelectSettings) -> Json:
    """Select from a join that is there; the content of join.json."""
    name = pick_join(store, name)
    with store.writing():
        return select(store, name, settings)


def why(store: Store, name: str | None, image_1: str, image_2: str | None) -> Explanation:
    """Why two images, or those of a pair_id, are, or are not, a blind pair of a join."""
    name = pick_join(store, name)
    if image_2 is None:
        image_1, image_2 = images_of_pair(store, name, image_1)
    return explain(store, name, image_1, image_2)


def pick_join(store: Store, name: str | None) -> str:
    """The name of a join that is there: the given one, or the one that was made last.

    Raises:
        StoreError: there is none.
    """
    store.run()
    last = store.last_join()
    if last is None:
        raise StoreError(f"{store.root} holds no join yet; run `blindpairs join {store.root}`")
    if name is not None and name not in (names := store.joins()):
        raise StoreError(f"{store.root} holds no join {name}; it holds {', '.join(names)}")
    return name or last


def encoders_of(store: Store, clip: str | None, dino: str | None) -> tuple[str, str]:
    """The encoder_ids, among those of a run, that two names stand for.

    An encoder that was named and has seen nothing yet, as DINO has when it is lazy, is found too.

    Args:
        store: the run directory.
        clip: a registry name, an encoder_id, or None for the last command's.
        dino: likewise.

    Raises:
        StoreError: the run has no vectors of such an encoder, or of several.
    """
    last = next((c for c in reversed(store.run()["commands"]) if "encoders" in c), None)
    names = [clip or (last and last["encoders"][0]), dino or (last and last["encoders"][1])]
    ids = store.encoder_ids()
    if None in names:
        by_library = _by_library(store, ids)
        names = [name or own for name, own in zip(names, by_library, strict=True)]
    if None in names:
        raise StoreError(
            f"{store.root} has vectors of {', '.join(ids) or 'no encoder'}, and which of them is "
            "CLIP and which DINO is not said; give --clip NAME and --dino NAME"
        )
    found = []
    for number, name in enumerate(names):
        known = [c["encoders"][number] for c in store.run()["commands"] if "encoders" in c]
        matching = [i for i in ids if _is_called(i, name)] or [
            i for i in dict.fromkeys(known) if _is_called(i, name)
        ]
        if len(matching) != 1:
            raise StoreError(
                f"{store.root} has vectors of {', '.join(ids) or 'no encoder'}; "
                f"{'none' if not matching else 'several'} of them is {name}; give its encoder_id"
            )
        found += matching
    return found[0], found[1]


def _by_library(store: Store, ids: list[str]) -> list[str | None]:
    """A run's one encoder of open_clip, and its one of timm; None where there are other numbers.

    Of a third encoder it is not known which side it is for, so then neither is taken.
    """
    of: dict[str, list[str]] = {"open_clip": [], "timm": [], "unknown": []}
    for encoder_id in ids:
        for commit in store.committed(f"vectors/{encoder_id}")[:1]:
            library = store.record(f"vectors/{encoder_id}", commit)["encoder"]["library"]
            of.setdefault(library, []).append(encoder_id)
    clip, dino = of["open_clip"], of["timm"]
    if [len(clip), len(dino), len(ids)] != [1, 1, 2]:
        return [None, None]
    return [clip[0], dino[0]]


def _is_called(encoder_id: str, name: str | None) -> bool:
    return name in (encoder_id, encoder_id[: -len("-01234567")])
