"""The work of a ViT, taken apart: which matrix products of which shapes, and which attention.

A tower cannot be faster than its own products and its own attention are on the device. So they are
measured one by one at the shapes that the tower has, and their times added up; everything else
(norms, activations, sums, copies) counts for nothing in this bound.

Shape suffixes: B images, L tokens, H heads, D width of a head.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.attention import TOKENS, attend
from miner.encoders import EncoderRecord, TorchEncoder, find_record, load_encoder
from tests.towers import write_clip_weights, write_dino_weights

TOWERS = ("clip-vit-l-14", "dinov2-vit-l-14")
"""The encoders that `mine` takes by default."""

SDPA = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
)
"""torch's own attention kernels, by name."""


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product as a layer makes it: [images * rows, inner] x [inner, columns]."""

    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        """Of one image; a multiplication and an addition are two."""
        return 2 * self.rows * self.inner * self.columns


@dataclass(frozen=True, slots=True)
class Attention:
    """Softmax attention as a block makes it."""

    heads: int
    tokens: int
    width: int

    @property
    def flops(self) -> int:
        """Of one image: both products."""
        return 4 * self.heads * self.tokens**2 * self.width


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a tower does for one image.

    Attributes:
        products: how often each product is made.
        attention: that of one block.
        blocks: how many blocks there are.
    """

    products: Counter[Product]
    attention: Attention
    blocks: int

    @property
    def flops(self) -> int:
        """All of it."""
        products = sum(product.flops * times for product, times in self.products.items())
        return products + self.blocks * self.attention.flops


def seeded(name: str, folder: Path) -> Path:
    """Weights of a registered encoder, drawn so that every block matters."""
    record = find_record(name)
    path = folder / f"{name}.safetensors"
    if record.library == "open_clip":
        # The image tower alone, and in float16: what a parity check sees is the same.
        model: Any = record.model if record.config is None else record.config
        return write_clip_weights(path, model, layout="visual" if record.config is None else "full")
    return write_dino_weights(path, record.model if record.config is None else record.config)


def seeded_record(name: str) -> EncoderRecord:
    """A registered encoder, whatever its weights."""
    return find_record(name).model_copy(update={"weights_sha256": None, "bundled": None})


def load_seeded(name: str, device: str, dtype: str, weights: Path) -> TorchEncoder:
    """A registered encoder with the weights of `seeded`."""
    return load_encoder(seeded_record(name), device=device, dtype=dtype, weights=weights)


def work_of(record: EncoderRecord, tower: torch.nn.Module) -> Work:
    """Take a ViT of open_clip or timm apart by its layers.

    Raises:
        ValueError: it has a layer that this does not know.
    """
    patch: torch.nn.Conv2d | None = None
    products: Counter[Product] = Counter()
    heads = width = blocks = 0
    convolutions = [each for each in tower.modules() if isinstance(each, torch.nn.Conv2d)]
    if len(convolutions) != 1:
        raise ValueError(f"{record.name} has {len(convolutions)} convolutions; a ViT has one")
    patch = convolutions[0]
    side = record.image_size // patch.kernel_size[0]
    tokens = side**2 + _num_prefix(tower)
    inner = patch.in_channels * patch.kernel_size[0] ** 2
    products[Product(side**2, inner, patch.out_channels)] += 1
    for layer in tower.modules():
        if isinstance(layer, torch.nn.MultiheadAttention):
            products[Product(tokens, layer.embed_dim, 3 * layer.embed_dim)] += 1
            products[Product(tokens, layer.embed_dim, layer.embed_dim)] += 1
            heads, width, blocks = layer.num_heads, layer.head_dim, blocks + 1
        elif hasattr(layer, "qkv"):
            heads, width, blocks = layer.num_heads, layer.head_dim, blocks + 1
        elif type(layer) is torch.nn.Linear:
            products[Product(tokens, layer.in_features, layer.out_features)] += 1
    projection = getattr(tower, "proj", None)
    if isinstance(projection, torch.nn.Parameter):
        products[Product(1, *projection.shape)] += 1
    return Work(products=products, attention=Attention(heads, tokens, width), blocks=blocks)


def _num_prefix(tower: torch.nn.Module) -> int:
    """Tokens that are no patches: the class token, and registers."""
    return int(getattr(tower, "num_prefix_tokens", 1))


def product_call(
    product: Product, images: int, dtype: torch.dtype, device: str
) -> Callable[[], Any]:
    """The product for a batch, ready to be timed."""
    rows = torch.randn(images * product.rows, product.inner, device=device).to(dtype)
    weight = torch.randn(product.columns, product.inner, device=device).to(dtype)
    bias = torch.zeros(product.columns, device=device, dtype=dtype)
    return partial(torch.nn.functional.linear, rows, weight, bias)


def attention_calls(
    attention: Attention, images: int, dtype: torch.dtype, device: str
) -> dict[str, Callable[[], torch.Tensor]]:
    """Every attention kernel that may run here, by name: torch's choice, each of torch's, the own.

    The inputs lie as a block's packed projection leaves them: [B, L, 3, H, D].
    """
    qkv = torch.randn(
        images, attention.tokens, 3, attention.heads, attention.width, device=device
    ).to(dtype)
    query_BHLD, key_BHLD, value_BHLD = qkv.permute(2, 0, 3, 1, 4)
    sdpa = partial(
        torch.nn.functional.scaled_dot_product_attention, query_BHLD, key_BHLD, value_BHLD
    )

    def by(backend: SDPBackend) -> torch.Tensor:
        with sdpa_kernel(backend):
            return sdpa()

    calls: dict[str, Callable[[], torch.Tensor]] = {"sdpa": sdpa}
    if torch.device(device).type == "cuda":
        calls |= {f"sdpa-{each.name.split('_')[0].lower()}": partial(by, each) for each in SDPA}
        if attention.tokens == TOKENS and dtype != torch.float32:
            calls["own-257"] = partial(attend, query_BHLD, key_BHLD, value_BHLD)
    return calls


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for seeded weights, removed at the end."""
    return tempfile.TemporaryDirectory(prefix="blindpairs-bench-")
