"""Text towers: sentences as vectors that may be compared with an encoder's image vectors.

A text tower belongs to a CLIP-like record of `miner.registry` and lies in the same weights file as
its image tower. It is open_clip's own; what it reads comes from `miner.tokenizers`.

    B texts, L tokens, D dimensions
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from miner.encoders import find_device, find_dtype, find_record, locate
from miner.errors import ResourceError
from miner.libraries import build_text_tower, check_activation, clip_config
from miner.registry import EncoderRecord
from miner.tokenizers import Tokenizer, find_tokenizer
from miner.weights import State, check_fit, read_safetensors

BATCH = 256
"""Texts that are encoded at once."""

_PARTS = (
    "token_embedding.",
    "positional_embedding",
    "cls_emb",
    "transformer.",
    "ln_final.",
    "text_projection",
)
"""Where the text tower lies in a file that has no `text.` for it."""


class TextTower:
    """The text side of a CLIP-like encoder.

    Attributes:
        record: the encoder's, the weights' hash included.
        encoder_id: the record's; the image vectors under it are those to compare with.
        dim: length of a vector.
        context_length: most tokens that a text may have, beginning and end included.
        device: where it computes.
        dtype: in what it computes.
        module: open_clip's text transformer.
    """

    def __init__(
        self,
        record: EncoderRecord,
        tower: Any,
        tokenizer: Tokenizer,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.record = record
        self.encoder_id = record.encoder_id
        self.dim = record.dim
        self.context_length: int = tower.context_length
        self.device = device
        self.dtype = dtype
        self._tokenizer = tokenizer
        self.module: Any = tower.to(device, dtype).eval().requires_grad_(False)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Encode texts.

        Args:
            texts: any number of them. CLIP's tokenizers cut what is longer than the context, as
                open_clip does, and a warning says so.

        Returns:
            [B, D] float32 on the CPU, rows of unit length.

        Raises:
            ValueError: one text is given instead of several, or demo-clip does not know a word.
        """
        if isinstance(texts, str):
            raise ValueError(f"texts is the string {texts[:40]!r}; give a list of strings")
        parts = [torch.empty(0, self.dim)]
        for first in range(0, len(texts), BATCH):
            tokens_BL = self._tokenizer(texts[first : first + BATCH]).to(self.device)
            vectors_BD = self.module(tokens_BL).float()
            parts.append(torch.nn.functional.normalize(vectors_BD, dim=-1).cpu())
        return torch.cat(parts)


def load_text_tower(
    name: str | EncoderRecord,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    weights: str | Path | None = None,
) -> TextTower:
    """Build the text tower of an encoder and load its weights.

    Args:
        name: a registry name, `open_clip:model:weights`, or a record.
        device: cpu, cuda or cuda:N.
        dtype: float32 (fp32), bfloat16 (bf16) or float16 (fp16), in which the tower computes.
        weights: safetensors file with both towers, or its URL and hash; default: bundled, or the
            hub's local cache, or the hub.

    Raises:
        ValueError: no such encoder, device or dtype, or the encoder has no text tower or tokenizer
            that is known here.
        ResourceError: weights, tokenizer or device are missing, or the weights do not fit.
    """
    record = find_record(name) if isinstance(name, str) else name
    torch_dtype = find_dtype(dtype)
    torch_device = find_device(device)
    _check_has_text(record)
    check_activation(record)
    record, path = locate(record, weights)
    tokenizer = find_tokenizer(record)
    # Without memory first: initial values would take seconds, and are thrown away.
    with torch.device("meta"):
        tower = build_text_tower(record)
    state = _text_state(record, path)
    check_fit(record, path, state, tower.state_dict())
    tower.load_state_dict(state, assign=True)
    if tower.attn_mask is not None:
        # Computed, and in no file.
        tower.attn_mask = tower.build_causal_mask()
    return TextTower(record, tower, tokenizer, torch_device, torch_dtype)


def _check_has_text(record: EncoderRecord) -> None:
    if record.library != "open_clip":
        raise ValueError(
            f"{record.name} was trained on images alone and has no text tower; take a CLIP-like "
            "encoder (`blindpairs encoders` lists them)"
        )
    other = clip_config(record)["text_cfg"].get("hf_model_name")
    if other:
        raise ValueError(
            f"{record.name}: its text tower is {other} of transformers, which is not read here; "
            "take an encoder whose text tower is open_clip's own"
        )


def _text_state(record: EncoderRecord, path: Path) -> State:
    """The text tower's tensors of a weights file, under the tower's names and in float32."""
    state = read_safetensors(path)
    if any(name.startswith("text.") for name in state):
        text = {
            name.removeprefix("text."): value
            for name, value in state.items()
            if name.startswith("text.")
        }
    else:
        text = {name: value for name, value in state.items() if name.startswith(_PARTS)}
    if "token_embedding.weight" not in text:
        raise ResourceError(
            f"{record.name}: weights file {path} has no text tower: none of its {len(state)} "
            "tensors is a token_embedding; give the file with both towers"
        )
    return {
        name: value.float() if value.is_floating_point() else value for name, value in text.items()
    }
