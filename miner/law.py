"""The law of a shard: which samples are whole, and what is said of the others."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from miner.groups import Part, fault_of_members
from miner.names import shown, split_name
from miner.schema import Reason
from miner.tar import Damage, TarReader

S = TypeVar("S")
"""What is made of a whole group: a sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One sample that is not whole, or a loss that cannot be given a key (key "")."""

    key: str
    member: str
    reason: Reason
    detail: str
    retracts: bool = False
    """A Sample with this key was yielded before and has to be taken back."""


@dataclass(slots=True)
class _Loss:
    """A damaged region, and the groups beside it that may have lost a member in it."""

    damage: Damage
    ordinal: int
    name: str
    key: str | None
    suffix: str
    neighbours: list[str] = field(default_factory=list)
    is_settled: bool = False


@dataclass(slots=True)
class _Fate:
    """What became of a key: `held` ones have no image and are refused at the end."""

    extensions: frozenset[str]
    state: Literal["kept", "held", "refused"]


class Judge(Generic[S]):
    """Says of every group whether it is whole, and names whatever is lost.

    Damage is settled with the group that its header names; else with the groups beside it that lack
    an image or other members that this shard's samples usually have; else it has a row of its own.
    """

    def __init__(self, make: Callable[[str, Part, Sequence[Part]], S]) -> None:
        self.is_damaged = False
        self.notes: list[str] = []
        self._make = make
        self._fates: dict[bytes, _Fate] = {}
        self._usual: Counter[frozenset[str]] = Counter()
        self._most_usual: frozenset[str] | None = None
        self._sets: dict[frozenset[str], frozenset[str]] = {}
        self._held: dict[str, Refusal] = {}
        self._losses: list[_Loss] = []
        self._rows: list[Refusal] = []
        self._last_ordinal = -1
        self._tar: TarReader | None = None
        self._end_is_explained = False
        self._new: list[_Loss] = []
        self._recent: list[_Loss] = []
        self._waiting: dict[str, list[_Loss]] = {}

    def lose(self, damage: Damage, ordinal: int) -> None:
        """Take note of a damaged region, at its place among the members."""
        self.is_damaged = True
        name = shown(damage.name or "")
        key, suffix = split_name(name)
        self._new.append(_Loss(damage, ordinal, name, key, suffix))

    def refuse_now(self, key: str, member: str, reason: Reason, detail: str) -> None:
        """A row for a member that belongs to no group."""
        self._rows.append(Refusal(key=key, member=member, reason=reason, detail=detail))

    def end_of_tar(self, reader: TarReader) -> None:
        """The members are over; one more group at most is still to be judged."""
        self._tar = reader
        self.is_damaged |= not reader.has_end or reader.trailing is not None

    def judge(self, groups: Iterable[dict[str, Any]]) -> Iterator[S | Refusal]:
        """A pipeline stage: groups in, samples and refusals out."""
        for group in groups:
            key, _ = group.pop("__key__"), group.pop("__url__")
            yield from self._arrivals()
            extensions = frozenset(group)
            # Samples are alike: one set stands for all that are equal.
            extensions = self._sets.setdefault(extensions, extensions)
            yield from self._weigh(key, list(group.values()), extensions)
        yield from self._arrivals()
        yield from self._settle()
        yield from self._held.values()
        yield from self._last_words()

    def _arrivals(self) -> Iterator[Refusal]:
        """Rows that wait, and new damage that names a group which was judged already."""
        yield from self._rows
        self._rows.clear()
        for loss in self._new:
            if loss.key is None:
                continue
            fate = self._fates.get(_hash(loss.key))
            if fate is None:
                self._waiting.setdefault(loss.key, []).append(loss)
            elif loss.suffix in fate.extensions:
                # That group lacks no such member: it is the name that is damaged.
                loss.key = None
            else:
                loss.is_settled = True
                yield from self._refuse(loss.key, loss.name, *_because(loss))
        self._recent += self._new
        self._losses += self._new
        self._new = []

    def _weigh(
        self, key: str, parts: list[Part], extensions: frozenset[str]
    ) -> Iterator[S | Refusal]:
        fault = self._fault_of(key, parts, extensions)
        images = [part for part in parts if part.is_image]
        fate = self._fates.get(_hash(key))
        if fate is not None and (fault is None or fault[0] is not Reason.TRUNCATED_SHARD):
            member = (images or parts)[0].name
            if images and fate.state != "held":
                detail = "an earlier sample of this shard has the same key"
                yield _row(key, member, Reason.DUPLICATE_KEY, detail)
                return
            detail = "members of this key lie apart, or come twice"
            yield from self._refuse(key, member, Reason.SCATTERED_KEY, detail)
            return
        if fate is None:
            fate = self._fates[_hash(key)] = _Fate(extensions, "refused")
        if fault is None and (fault := self._cut_short(extensions, parts)) is None:
            fate.state = "kept"
            self._usual[extensions] += 1
            self._most_usual = None
            yield self._make(key, images[0], parts)
            return
        reason, detail, member = fault
        if reason is Reason.NO_IMAGE:
            # The image may still come, apart from the rest, or be what a bad header hides.
            fate.state, self._held[key] = "held", _row(key, member, reason, detail)
        else:
            yield _row(key, member, reason, detail)

    def _fault_of(
        self, key: str, parts: list[Part], extensions: frozenset[str]
    ) -> tuple[Reason, str, str] | None:
        """Why a group is not whole: reason, detail and member."""
        beside = [loss for loss in self._recent if loss.ordinal > self._last_ordinal]
        self._last_ordinal = parts[-1].ordinal
        self._recent = [loss for loss in beside if loss.ordinal > self._last_ordinal]
        for loss in beside:
            loss.neighbours.append(key)
        mine = []
        for loss in self._waiting.pop(key, ()):
            if loss.suffix in extensions:
                loss.key = None
            else:
                loss.is_settled = True
                mine.append(loss)
        for part in parts:
            if part.member.cut:
                self._end_is_explained = True
                detail = f"the tar ends inside this member of {part.member.num_bytes} bytes"
                return Reason.TRUNCATED_SHARD, detail, part.name
            if part.member.suspect:
                for loss in beside:
                    loss.is_settled |= loss.key is None
                detail = "the extension header that may rename this member is unreadable"
                return Reason.DAMAGED_HEADER, detail, part.name
        if mine:
            return *_because(mine[0]), mine[0].name
        return fault_of_members(parts)

    def _cut_short(
        self, extensions: frozenset[str], parts: list[Part]
    ) -> tuple[Reason, str, str] | None:
        """Whether the last group lacks members because the tar ends, or seems to."""
        if self._tar is None or not self._lacks_members(extensions):
            return None
        missing = ", ".join(sorted(self._usual_extensions() - extensions))
        detail = f"the shard's last sample, without the usual {missing}"
        if not self._tar.has_end:
            self._end_is_explained = True
            return Reason.TRUNCATED_SHARD, detail, parts[-1].name
        if self._tar.trailing is not None:
            return Reason.TRAILING_BYTES, detail, parts[-1].name
        # Zeros over a tar's end make a shorter tar that is whole: this is the only trace.
        self.notes.append(f"{parts[-1].name}: {detail}")
        return None

    def _lacks_members(self, extensions: frozenset[str]) -> bool:
        return bool(self._usual) and extensions < self._usual_extensions()

    def _usual_extensions(self) -> frozenset[str]:
        """The most common extensions of a sample; of several, the largest set."""
        if self._most_usual is None:
            self._most_usual = max(self._usual, key=lambda each: (self._usual[each], len(each)))
        return self._most_usual

    def _settle(self) -> Iterator[Refusal]:
        """Damage that no group answered for: its neighbours' loss, or a row of its own."""
        for loss in self._losses:
            if not loss.is_settled:
                for key in loss.neighbours:
                    fate = self._fates[_hash(key)]
                    is_whole = fate.state == "kept" and not self._lacks_members(fate.extensions)
                    if fate.state != "refused" and not is_whole:
                        loss.is_settled = True
                        yield from self._refuse(key, loss.name, *_because(loss))
                if loss.key is not None:
                    loss.is_settled = True
                    yield from self._refuse(loss.key, loss.name, *_because(loss))
            if not loss.is_settled:
                yield _row("", loss.name, *_because(loss))
            elif not loss.damage.is_one_member:
                start, end = loss.damage.start, loss.damage.end
                detail = f"bytes {start} to {end} may hold more than the one member that is missed"
                yield _row("", loss.name, Reason.DAMAGED_HEADER, detail)

    def _refuse(self, key: str, member: str, reason: Reason, detail: str) -> Iterator[Refusal]:
        """Refuse a key, whatever became of it before, with one row in all."""
        fate = self._fates.setdefault(_hash(key), _Fate(frozenset(), "held"))
        if fate.state == "held":
            self._held[key] = _row(key, member, reason, detail)
        elif fate.state == "kept":
            fate.state = "refused"
            yield Refusal(key=key, member=member, reason=reason, detail=detail, retracts=True)

    def _last_words(self) -> Iterator[Refusal]:
        """What cannot be known, because the tar has no end or more than one."""
        if self._tar is None:
            return
        if not self._tar.has_end and not self._end_is_explained:
            yield _row(
                "",
                "",
                Reason.TRUNCATED_SHARD,
                f"no end-of-archive mark; an unknown number of samples after byte "
                f"{self._tar.num_bytes} is missing",
            )
        if self._tar.trailing is not None:
            yield _row(
                "",
                "",
                Reason.TRAILING_BYTES,
                f"the end-of-archive mark is followed by other bytes from {self._tar.trailing} on; "
                "they were not read",
            )


def _because(loss: _Loss) -> tuple[Reason, str]:
    return Reason.DAMAGED_HEADER, loss.damage.detail


def _row(key: str, member: str, reason: Reason, detail: str) -> Refusal:
    return Refusal(key=key, member=member, reason=reason, detail=detail)


def _hash(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=12).digest()
