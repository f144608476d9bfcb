"""Which code computed something: the versions that travel with every commit."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "blindpairs",
    "torch",
    "torchvision",
    "open_clip_torch",
    "timm",
    "pillow",
    "simplejpeg",
    "webdataset",
    "pyarrow",
    "numpy",
    "faiss-gpu" if platform.machine() == "x86_64" else "faiss-cpu",
)


@cache
def versions() -> dict[str, str]:
    """Package name to version; `missing` where a package is not installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found
