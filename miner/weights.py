"""Weights of an encoder: finding the file, knowing it by its hash, fitting it into the tower.

Files are safetensors; nothing is ever unpickled. Accepted layouts:

    open_clip   the whole state dict, OpenAI's too (`visual.conv1.weight`, text tower beside it,
                which `miner.text` reads)
                the image tower alone (`conv1.weight`)
    timm        timm's own (`blocks.0.norm1.weight`); a classifier is left out
                the DINOv2 hub's (with `mask_token`; with `register_tokens` where it has them)

Any storage precision is taken; floats are widened to float32. Every tensor must find its place.

    L tokens, D width
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from miner.errors import ResourceError
from miner.records import remembered_sha256
from miner.registry import BUNDLED, EncoderRecord
from miner.staging import staged

State = dict[str, torch.Tensor]

_TEXT_TOWER = (
    "text.",
    "text_decoder.",
    "transformer.",
    "token_embedding.",
    "positional_embedding",
    "ln_final.",
    "text_projection",
    "logit_scale",
    "logit_bias",
    "input_resolution",
    "context_length",
    "vocab_size",
)


def locate(record: EncoderRecord, weights: str | Path | None) -> tuple[EncoderRecord, Path]:
    """Find an encoder's weights file and put its hash into the record. Builds no model.

    Args:
        record: from the registry or of one's own.
        weights: the file, or its URL with its sha256 (see `miner.staging.staged`); default: bundled
            with the package, or the hub's local cache, or the hub.

    Returns:
        The record with `weights_sha256`, and the file.

    Raises:
        ResourceError: there is no such file, or it is not what the record wants.
    """
    if weights is not None:
        path = staged(str(weights))
    elif record.bundled is not None:
        path = BUNDLED / record.bundled
    else:
        path = _from_hub(record)
    if not path.is_file():
        raise ResourceError(
            f"{record.name}: no weights file at {path}; give a safetensors file "
            "(--clip-weights, --dino-weights)"
        )
    sha256 = remembered_sha256(path)
    if record.weights_sha256 not in (None, sha256):
        raise ResourceError(
            f"{record.name}: weights file {path} has sha256 {sha256}, the record wants "
            f"{record.weights_sha256}; take the right file, or a record without weights_sha256"
        )
    return record.model_copy(update={"weights_sha256": sha256}), path


def fit_state(record: EncoderRecord, path: Path, tower: Any) -> State:
    """The tensors of a weights file under the tower's names, in float32, at the tower's size.

    Raises:
        ResourceError: the file is no safetensors, or a tensor is missing, over or misshapen.
    """
    state = {
        name: value.float() if value.is_floating_point() else value
        for name, value in read_safetensors(path).items()
    }
    if record.library == "open_clip":
        state = _image_tower(state)
    else:
        state = _timm_names(state)
        if getattr(tower, "num_classes", 0) == 0:
            # A name, several, or None.
            heads = getattr(tower, "pretrained_cfg", {}).get("classifier") or "head"
            prefixes = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
            state = {name: value for name, value in state.items() if not name.startswith(prefixes)}
    wanted: State = tower.state_dict()
    if record.position_embedding != "native" and "pos_embed" in state:
        grid = tower.patch_embed.grid_size[0]
        num_prefix = wanted["pos_embed"].shape[1] - grid**2
        state["pos_embed"] = resample_position_embedding(
            state["pos_embed"],
            num_prefix,
            grid,
            antialias=record.position_embedding == "hub-antialias",
        )
    check_fit(record, path, state, wanted)
    return state


def resample_position_embedding(
    embedding_1LD: torch.Tensor, num_prefix: int, grid: int, *, antialias: bool
) -> torch.Tensor:
    """Bring a position embedding to another grid as DINOv2's hub models do.

    The hub's models without registers interpolate by the *factor* (grid + 0.1) / old grid, which
    shifts every sample a little; those with registers go by size, and antialias. timm does the
    latter for all of them, which gives the former other vectors. Source: DINOv2's
    `interpolate_pos_encoding`, and `interpolate_offset` in its hub's backbones.py.

    Args:
        embedding_1LD: [1, num_prefix + old grid squared, D] float32.
        num_prefix: tokens in front that belong to no patch, and are kept.
        grid: patches to a side of the result.
        antialias: as the models with registers; else as those without.

    Returns:
        [1, num_prefix + grid squared, D] float32; the same tensor where it has that size.
    """
    prefix_1LD, patches_1LD = embedding_1LD[:, :num_prefix], embedding_1LD[:, num_prefix:]
    old_grid = math.isqrt(patches_1LD.shape[1])
    if old_grid == grid or old_grid**2 != patches_1LD.shape[1]:
        return embedding_1LD
    patches_1DHW = patches_1LD.reshape(1, old_grid, old_grid, -1).permute(0, 3, 1, 2)
    if antialias:
        patches_1DHW = torch.nn.functional.interpolate(
            patches_1DHW, size=(grid, grid), mode="bicubic", antialias=True
        )
    else:
        factor = (grid + 0.1) / old_grid
        patches_1DHW = torch.nn.functional.interpolate(
            patches_1DHW, scale_factor=(factor, factor), mode="bicubic"
        )
    return torch.cat([prefix_1LD, patches_1DHW.flatten(2).transpose(1, 2)], dim=1)


def read_safetensors(path: Path) -> State:
    """All tensors of a safetensors file, on the CPU.

    Raises:
        ResourceError: it is something else; pickles and TorchScript are not opened.
    """
    import safetensors.torch

    with path.open("rb") as file:
        head = file.read(9)
    # Eight bytes of length come first, and any length may look like another format's beginning.
    if head[8:] != b"{" and head.startswith((b"PK", b"\x80")):
        raise ResourceError(_how_to_convert(path, head))
    try:
        state: State = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ResourceError(
            f"{path} is no safetensors file ({error}); give one, or fetch it again"
        ) from error
    return state


def _how_to_convert(path: Path, head: bytes) -> str:
    kind, load = "a pickle", f'torch.load("{path.name}", weights_only=True)'
    if head.startswith(b"PK") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any("/code/" in name for name in archive.namelist()):
                kind = "a TorchScript archive"
                load = f'torch.jit.load("{path.name}", map_location="cpu").state_dict()'
    return (
        f"{path} is {kind}, which can run code when it is opened; weights are read from safetensors"
        " only. If you trust the file, convert it once:\n"
        "    import torch; from safetensors.torch import save_file\n"
        f"    state = {load}\n"
        "    save_file({name: value.clone() for name, value in state.items()}, "
        f'"{path.stem}.safetensors")'
    )


def _from_hub(record: EncoderRecord) -> Path:
    """The file in the hub's local cache, fetched if need be and possible."""
    if record.weights_repo is None or record.weights_file is None:
        raise ResourceError(
            f"{record.name}: its weights are on no hub; give a safetensors file "
            "(--clip-weights, --dino-weights)"
        )
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import LocalEntryNotFoundError

    repo, file = record.weights_repo, record.weights_file
    try:
        return Path(hf_hub_download(repo, file, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        # One request without retries first: the download itself would try for half a minute.
        get_hf_file_metadata(hf_hub_url(repo, file), timeout=10)
        return Path(hf_hub_download(repo, file))
    # The hub's client raises its HTTP library's errors, and has changed that library.
    except Exception as error:
        raise ResourceError(
            f"{record.name}: {file} of {repo} is not in the hub's local cache and cannot be "
            f"fetched ({type(error).__name__}: {str(error).splitlines()[0]}); run `hf download "
            f"{repo} {file}` where there is a network and copy the cache, or give the file itself "
            "(--clip-weights, --dino-weights)"
        ) from error


def _image_tower(state: State) -> State:
    """Names without `visual.`, and without the text tower's tensors."""
    if not any(name.startswith("visual.") for name in state):
        return state
    return {
        name.removeprefix("visual."): value
        for name, value in state.items()
        if not name.startswith(_TEXT_TOWER)
    }


def _timm_names(state: State) -> State:
    """Names of timm for the tensors of a DINOv2 hub file; other layouts as they are."""
    if "mask_token" not in state:
        return state
    state = {name: value for name, value in state.items() if name != "mask_token"}
    if "register_tokens" in state:
        # timm adds no position to the class token of these, so it goes into the token.
        position_1LD = state["pos_embed"]
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"] = state["cls_token"] + position_1LD[:, :1]
        state["pos_embed"] = position_1LD[:, 1:]
    return state


def check_fit(record: EncoderRecord, path: Path, state: State, wanted: State) -> None:
    """Hold the tensors of a file against those that a tower wants.

    Raises:
        ResourceError: a tensor is missing, over or misshapen.
    """
    missing = wanted.keys() - state.keys()
    unexpected = state.keys() - wanted.keys()
    misshapen = [
        f"{name} {list(state[name].shape)} instead of {list(wanted[name].shape)}"
        for name in wanted.keys() & state.keys()
        if state[name].shape != wanted[name].shape
    ]
    if missing or unexpected or misshapen:
        raise ResourceError(
            f"{record.name}: weights file {path} does not fit {record.model}: {_some(missing)} "
            f"missing, {_some(unexpected)} not expected, {_some(misshapen)} of another shape; "
            "miner/weights.py lists the layouts that are accepted"
        )


def _some(names: Iterable[str]) -> str:
    """How many there are, and the first three."""
    ordered = sorted(names)
    if not ordered:
        return "0"
    return f"{len(ordered)} ({', '.join(ordered[:3])}{', ...' if len(ordered) > 3 else ''})"
