"""The records of a run in a bucket, gathered in one object, so that one request reads all of them.

The listing says which version of a record is there; only what the bundle does not hold in that
version is asked for singly. So the bundle may be old, or gone, and nothing is read wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from miner.errors import StoreError
from miner.files import Entry, Files

log = logging.getLogger(__name__)

PATH = ".bundles/records.parquet"

WORTH = 256
"""Records that have to be asked for singly before they are gathered."""


def read_records(files: Files, entries: Sequence[Entry]) -> Iterator[bytes]:
    """The bytes of records, in their order, and the bundle renewed where many were not in it.

    Args:
        files: the run's files.
        entries: of the records, as they are listed now.
    """
    if len(entries) < WORTH:
        yield from files.read_many(entry.path for entry in entries)
        return
    known = _load(files)
    missing = [entry for entry in entries if (entry.path, entry.version) not in known]
    found = files.read_many(entry.path for entry in missing)
    known |= {(e.path, e.version): data for e, data in zip(missing, found, strict=True)}
    if len(missing) >= WORTH:
        _save(files, entries, known)
    for entry in entries:
        yield known[entry.path, entry.version]


Known = dict[tuple[str, str], bytes]
"""Records by their path and version."""


def _load(files: Files) -> Known:
    try:
        with files.open(PATH) as file:
            columns = pq.ParquetFile(file).read().to_pydict()
    except FileNotFoundError:
        return {}
    except (OSError, pa.ArrowException) as error:
        log.warning("%s/%s cannot be read and is made anew: %s", files.address, PATH, error)
        return {}
    keys = zip(columns["path"], columns["version"], strict=True)
    return dict(zip(keys, columns["data"], strict=True))


def _save(files: Files, entries: Sequence[Entry], known: Known) -> None:
    table = pa.table(
        {
            "path": [entry.path for entry in entries],
            "version": [entry.version for entry in entries],
            "data": pa.array([known[e.path, e.version] for e in entries], pa.large_binary()),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    try:
        files.write(PATH, memoryview(sink.getvalue()).cast("B"))
    except (OSError, StoreError) as error:
        # Whoever may only look at a run can do without.
        log.info("%s/%s is not renewed: %s", files.address, PATH, error)
