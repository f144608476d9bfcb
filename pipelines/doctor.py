"""What this machine has, what would be used, and why."""

from __future__ import annotations

import importlib.util
import os
import platform
from pathlib import Path

import torch

from export.cache import EngineCache
from kernels.pace import pair_s
from kernels.prepare import WIDTHS
from miner.implementations import implementation, why_chosen
from miner.versions import versions
from pipelines.driver import device_of

CPU_FEATURES = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx512f", "avx2")


def examine() -> list[tuple[str, str]]:
    """Names and values of everything that decides how a run is done here."""
    return [
        *versions().items(),
        ("cpu", f"{os.cpu_count()} cores, {platform.machine()}, {', '.join(_cpu_features())}"),
        *_gpus(),
        ("onnxruntime", _onnxruntime()),
        ("tensorrt", _presence("tensorrt", 'pip install "blindpairs[tensorrt]"')),
        (
            "tensorrt-rtx",
            _presence("tensorrt_rtx_bindings", 'pip install "blindpairs[tensorrt-rtx]"'),
        ),
        *_engines(),
        ("ray", _presence("ray", "pip install ray")),
        ("--device auto", f"{device_of('auto')}, {_why_device()}"),
        ("--join auto", f"{implementation('auto')}, {why_chosen('auto', implementation('auto'))}"),
        ("join screens", _screens()),
    ]


def _cpu_features() -> list[str]:
    info = Path("/proc/cpuinfo")
    words = set(info.read_text().split()) if info.exists() else set()
    return [feature for feature in CPU_FEATURES if feature in words]


def _gpus() -> list[tuple[str, str]]:
    if not torch.cuda.is_available():
        return [("gpu", "none that torch can use")]
    return [
        (
            f"cuda:{index}",
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
            f"sm_{properties.major}{properties.minor}",
        )
        for index in range(torch.cuda.device_count())
        for properties in [torch.cuda.get_device_properties(index)]
    ]


def _screens() -> str:
    """Pairs that this machine screens in a second, in each number format, measured now."""
    threads = torch.get_num_threads()
    widths = {f"int8 codes of width {WIDTHS[1]}": WIDTHS[1], "bfloat16": 768, "float32": 768}
    found = []
    for name, width in widths.items():
        each_s = pair_s(name.partition(" ")[0], width, threads)
        rate = "not exact here" if each_s is None else f"{1 / each_s:.2g} pairs/s"
        found.append(f"{name} {rate}")
    return f"{', '.join(found)}; {threads} threads, measured now"


def _why_device() -> str:
    return "since torch sees a GPU" if torch.cuda.is_available() else "since torch sees no GPU"


def _onnxruntime() -> str:
    try:
        import onnxruntime
    except ImportError as error:
        return f"missing ({error})"
    return f"{onnxruntime.__version__}, {', '.join(onnxruntime.get_available_providers())}"


def _engines() -> list[tuple[str, str]]:
    """Engines of the cache that were only built: mining does not load them."""
    return [
        (
            "engine",
            f"{entry.key['encoder_id']} in {entry.key['precision']} for compute capability "
            f"{entry.key['compute_capability']}: built, never executed; {entry.folder}",
        )
        for entry in EngineCache().entries("unproven")
    ]


def _presence(module: str, remedy: str) -> str:
    return "installed" if importlib.util.find_spec(module) else f"missing; {remedy}"
