"""Members that share a key: which is the image, what goes with it, why the group is no sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from miner.metadata import METADATA_EXTENSIONS
from miner.names import IMAGE_EXTENSIONS, extension_of, tree_key, why_unsafe
from miner.schema import Reason
from miner.tar import Member


@dataclass(slots=True)
class Part:
    """A member, by the name that may be shown, and its place in the shard's sequence."""

    member: Member
    name: str
    ordinal: int
    is_unsafe: bool

    @property
    def is_image(self) -> bool:
        """Whether the name has an image's extension."""
        return extension_of(self.name) in IMAGE_EXTENSIONS


def fault_of_members(parts: list[Part]) -> tuple[Reason, str, str] | None:
    """Why a group whose members were all read is no sample."""
    images = [part for part in parts if part.is_image]
    others = [part for part in parts if part.member.kind == "other"]
    first = (images or parts)[0]
    for part in parts:
        if part.is_unsafe:
            return Reason.UNSAFE_NAME, why_unsafe(part.member.name), part.name
    if len(images) > 1:
        names = ", ".join(part.name for part in images[:5])
        return Reason.SEVERAL_IMAGES, f"{len(images)} images: {names}", first.name
    if others and (not images or images[0] in others):
        return Reason.NOT_A_FILE, "a link, a device or a sparse file", others[0].name
    if not images:
        return Reason.NO_IMAGE, f"{len(parts)} members, none an image", first.name
    if first.member.data is None:
        detail = f"{first.member.num_bytes} bytes, above max_member_bytes"
        return Reason.TOO_MANY_BYTES, detail, first.name
    return None


def metadata_of(
    key: str, image: Part, parts: Sequence[Part]
) -> tuple[dict[str, bytes | None], list[str]]:
    """Metadata members of an image by extension, and the other members' extensions."""
    stem = tree_key(image.name)
    texts: dict[str, bytes | None] = {}
    others = []
    for part in parts:
        extension = extension_of(part.name)
        if part is image:
            continue
        if part.member.kind != "file" or extension not in METADATA_EXTENSIONS:
            others.append(part.name[len(key) + 1 :])
        elif tree_key(part.name) == stem:
            texts[extension] = part.member.data
        elif tree_key(part.name) == key:
            texts.setdefault(extension, part.member.data)
        else:
            others.append(part.name[len(key) + 1 :])
    return texts, others
