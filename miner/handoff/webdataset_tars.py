"""webdataset tars: a sample for each pair, with both images' original bytes and their JSON."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence

from miner.handoff.work import Files, Format, Work
from miner.records import Json

TAR_BYTES = 10**9
"""Image bytes from which on the next tar begins."""

USAGE = """\
`pairs-000000.tar` and so on: a sample for each pair, its key the pair_id, with the members
`image_1.<extension>`, `image_2.<extension>` (the original bytes) and `json`
(cosines, reviews, both images' fields).

```python
import webdataset as wds
for pair in wds.WebDataset("pairs-000000.tar", shardshuffle=False):
    pair["__key__"], pair["json"], [name for name in pair if name.startswith("image_")]
```
"""


def write(work: Work) -> Files:
    """Write the tars."""
    files: Files = {}
    for number, pairs in enumerate(shares(work, TAR_BYTES)):
        name = f"pairs-{number:06d}.tar"
        with tarfile.open(work.folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for pair in pairs:
                members = []
                for place, image in enumerate(work.handoff.both(pair), start=1):
                    extension = work.originals.extension(image)
                    members.append(f"{pair['pair_id']}.image_{place}.{extension}")
                    _add(tar, members[-1], work.originals.read(image))
                said = json.dumps(work.handoff.flat(pair), ensure_ascii=False, sort_keys=True)
                _add(tar, f"{pair['pair_id']}.json", said.encode())
                files[pair["pair_id"]] = (f"{name}/{members[0]}", f"{name}/{members[1]}")
    return files


def shares(work: Work, most_bytes: int) -> Iterator[Sequence[Json]]:
    """The pairs, parted so that a part ends with the image that reaches so many bytes."""
    part: list[Json] = []
    num_bytes = 0
    for pair in work.handoff.pairs:
        part.append(pair)
        num_bytes += sum(image["num_bytes"] for image in work.handoff.both(pair))
        if num_bytes >= most_bytes:
            yield part
            part, num_bytes = [], 0
    if part:
        yield part


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # No time, no owner: the same pairs are the same bytes.
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


FORMAT = Format(
    name="webdataset",
    summary="tars with a sample for each pair",
    usage=USAGE,
    write=write,
)
