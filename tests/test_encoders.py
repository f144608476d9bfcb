"""TorchEncoder gives what open_clip and timm give, and refuses what they would take in silence.

B images, L tokens, D dimensions; C, H, W channels, rows, columns
"""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import open_clip
import pytest
import safetensors.torch
import timm
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torchvision import transforms

import miner.weights
from miner.crops import CropSpec
from miner.encoders import (
    REGISTRY,
    EncoderRecord,
    TorchEncoder,
    find_record,
    load_encoder,
    locate,
)
from miner.errors import ResourceError
from miner.libraries import build_tower
from miner.registry import CLIP_MEAN, CLIP_STD, HALF, IMAGENET_MEAN, IMAGENET_STD
from miner.weights import read_safetensors, resample_position_embedding
from tests import towers
from tests.exports import LargeWeights

TOLERANCE = 1e-5
SHA256 = "0" * 64
PHOTOGRAPHS = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    towers.write_clip_weights(folder / "clip.safetensors")
    towers.write_dino_weights(folder / "dino.safetensors", grid=37)
    return folder


@pytest.fixture(scope="module")
def clip(folder: Path) -> TorchEncoder:
    return load_encoder(towers.clip_record(), weights=folder / "clip.safetensors")


@pytest.fixture(scope="module")
def dino(folder: Path) -> TorchEncoder:
    return load_encoder(towers.dino_record(), weights=folder / "dino.safetensors")


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    return towers.scenes(24)


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    """Sixteen of the 120 photographs of ImageNet beside the checkout."""
    if not PHOTOGRAPHS.is_dir():
        pytest.skip(f"no photographs at {PHOTOGRAPHS}")
    images = []
    for path in sorted(PHOTOGRAPHS.glob("*.tar")):
        with tarfile.open(path) as shard:
            for member in shard:
                if member.name.endswith(".jpg"):
                    file = shard.extractfile(member)
                    assert file is not None
                    images.append(Image.open(io.BytesIO(file.read())))
    return images[:: len(images) // 16][:16]


def encode(encoder: TorchEncoder, images: list[Image.Image]) -> torch.Tensor:
    return encoder(torch.stack([encoder.preprocess(image) for image in images]))


def cosines(vectors_BD: torch.Tensor) -> torch.Tensor:
    first, second = torch.triu_indices(len(vectors_BD), len(vectors_BD), 1)
    return (vectors_BD @ vectors_BD.T)[first, second]


def difference(left: torch.Tensor, right: torch.Tensor) -> float:
    return (left - right).abs().max().item()


@torch.inference_mode()
def by_open_clip(
    model: torch.nn.Module, images: list[Image.Image], **preprocessing: Any
) -> torch.Tensor:
    transform = image_transform_v2(PreprocessCfg(**preprocessing), is_train=False)
    inputs_BCHW = torch.stack([transform(image) for image in images])
    return torch.nn.functional.normalize(model.encode_image(inputs_BCHW), dim=-1)


@torch.inference_mode()
def by_timm(
    model: torch.nn.Module, images: list[Image.Image], resize_to: int, size: int
) -> torch.Tensor:
    transform = transforms.Compose(
        [
            transforms.Lambda(lambda image: image.convert("RGB")),
            transforms.Resize(resize_to, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    inputs_BCHW = torch.stack([transform(image) for image in images])
    return torch.nn.functional.normalize(model(inputs_BCHW), dim=-1)


def stored(path: Path) -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in safetensors.torch.load_file(path).items()}


def hub_position(embedding_1LD: torch.Tensor, grid: int) -> torch.Tensor:
    """DINOv2's interpolate_pos_encoding (no antialias, offset 0.1), written out as sums.

    Sample i lies at (i + 0.5) / factor - 0.5 and takes four neighbours, repeated at the border,
    weighted by the cubic kernel with a = -0.75.
    """
    values_1LD = embedding_1LD.double().numpy()
    old_grid = round((values_1LD.shape[1] - 1) ** 0.5)
    patches_HWD = values_1LD[0, 1:].reshape(old_grid, old_grid, -1)
    weights = np.zeros((grid, old_grid))
    for i in range(grid):
        place = (i + 0.5) * old_grid / (grid + 0.1) - 0.5
        for neighbour in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            x, a = abs(place - neighbour), -0.75
            near = (a + 2) * x**3 - (a + 3) * x**2 + 1
            far = a * (x**3 - 5 * x**2 + 8 * x - 4)
            weights[i, np.clip(neighbour, 0, old_grid - 1)] += near if x <= 1 else far
    new_HWD = np.einsum("ih,jw,hwd->ijd", weights, weights, patches_HWD)
    new_1LD = np.concatenate([values_1LD[:, :1], new_HWD.reshape(1, grid**2, -1)], axis=1)
    return torch.from_numpy(new_1LD).float()


class Passing(torch.nn.Module):
    """Stands in for a block: gives what the removed block had been given."""

    def __init__(self, tokens_BLD: torch.Tensor) -> None:
        super().__init__()
        self.tokens_BLD = tokens_BLD

    def forward(self, _: torch.Tensor, **__: Any) -> torch.Tensor:
        return self.tokens_BLD


def block_effects(
    encoder: TorchEncoder, blocks: torch.nn.ModuleList, images: list[Image.Image]
) -> list[float]:
    """Largest change of a pair's cosine when each of the blocks in turn is removed."""
    inputs: list[torch.Tensor] = []
    hooks = [
        block.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for block in blocks
    ]
    whole = cosines(encode(encoder, images))
    for hook in hooks:
        hook.remove()
    effects = []
    originals = list(blocks)
    for k in range(len(originals)):
        # The blocks before it need not run again.
        for earlier in range(k + 1):
            blocks[earlier] = Passing(inputs[k])
        effects.append(difference(cosines(encode(encoder, images)), whole))
        for earlier in range(k + 1):
            blocks[earlier] = originals[earlier]
    return effects


def assert_tower_can_fail(
    vectors_BD: torch.Tensor,
    encoder: TorchEncoder,
    blocks: torch.nn.ModuleList,
    images: list[Image.Image],
) -> None:
    values = cosines(vectors_BD)
    assert values.max() - values.min() > 0.5
    effects = block_effects(encoder, blocks, images)
    assert len(effects) == len(blocks)
    assert min(effects) > 100 * TOLERANCE


# Equality with the libraries.


def test_clip_equals_open_clip(clip: TorchEncoder, folder: Path, scenes: list[Image.Image]) -> None:
    model = open_clip.CLIP(**towers.CLIP_CONFIG).eval()
    model.load_state_dict(stored(folder / "clip.safetensors"))
    vectors_BD = encode(clip, scenes)
    assert vectors_BD.dtype == torch.float32
    assert vectors_BD.shape == (len(scenes), 48)
    assert difference(vectors_BD, by_open_clip(model, scenes, size=64)) < TOLERANCE
    assert difference(vectors_BD.norm(dim=1), torch.ones(len(scenes))) < 1e-6


def test_dino_equals_timm_on_the_hubs_position_embedding(
    dino: TorchEncoder, folder: Path, scenes: list[Image.Image]
) -> None:
    state = stored(folder / "dino.safetensors")
    assert state["pos_embed"].shape == (1, 1 + 37**2, 64)
    state["pos_embed"] = hub_position(state["pos_embed"], 8)
    model = VisionTransformer(**towers.DINO_CONFIG).eval()
    model.load_state_dict(state)
    expected_BD = by_timm(model, scenes, 64, 56)
    assert difference(encode(dino, scenes), expected_BD) < TOLERANCE


def test_small_towers_can_fail(
    clip: TorchEncoder, dino: TorchEncoder, scenes: list[Image.Image]
) -> None:
    for encoder, blocks in (
        (clip, clip.module.tower.transformer.resblocks),
        (dino, dino.module.tower.blocks),
    ):
        assert_tower_can_fail(encode(encoder, scenes), encoder, blocks, scenes[:6])


@pytest.mark.slow
def test_full_size_clip_equals_open_clip(
    large_weights: LargeWeights, photographs: list[Image.Image]
) -> None:
    name, path = "ViT-L-14-quickgelu", large_weights("clip-vit-l-14")
    encoder = load_encoder("clip-vit-l-14", weights=path)
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config(name)).eval()
    model.visual.load_state_dict(stored(path), assign=True)
    vectors_BD = encode(encoder, photographs)
    assert difference(vectors_BD, by_open_clip(model, photographs)) < TOLERANCE
    blocks = encoder.module.tower.transformer.resblocks
    assert_tower_can_fail(vectors_BD, encoder, blocks, photographs[:3])


@pytest.mark.slow
def test_full_size_dino_equals_timm(
    large_weights: LargeWeights, photographs: list[Image.Image]
) -> None:
    path = large_weights("dinov2-vit-l-14")
    encoder = load_encoder("dinov2-vit-l-14", weights=path)
    state = stored(path)
    assert state["pos_embed"].shape == (1, 1 + 37**2, 1024)
    state["pos_embed"] = hub_position(state["pos_embed"], 16)
    with torch.device("meta"):
        model = timm.create_model("vit_large_patch14_dinov2", img_size=224, num_classes=0).eval()
    model.load_state_dict(state, assign=True)
    vectors_BD = encode(encoder, photographs)
    assert difference(vectors_BD, by_timm(model, photographs, 256, 224)) < TOLERANCE
    assert_tower_can_fail(vectors_BD, encoder, encoder.module.tower.blocks, photographs[:3])


@pytest.mark.slow
def test_siglip_equals_open_clip(tmp_path: Path) -> None:
    images = towers.scenes(3)
    record = REGISTRY["siglip-vit-b-16"]
    path = tmp_path / "siglip.safetensors"
    model = open_clip.create_model(record.model, pretrained=None).eval()
    safetensors.torch.save_file(
        {f"visual.{name}": value for name, value in model.visual.state_dict().items()}, path
    )
    encoder = load_encoder(record, weights=path)
    expected_BD = by_open_clip(
        model, images, mean=HALF, std=HALF, resize_mode="squash", interpolation="bicubic"
    )
    assert difference(encode(encoder, images), expected_BD) < TOLERANCE


def test_rotary_tower_equals_timm(tmp_path: Path) -> None:
    model_name = "vit_tiny_patch16_dinov3_qkvb"
    path = towers.write_dino_weights(tmp_path / "dinov3.safetensors", model_name)
    encoder = load_encoder(f"timm:{model_name}:eupe_lvd1689m", weights=path)
    assert (encoder.record.pooling, encoder.record.image_size) == ("cls", 256)
    model = timm.create_model(model_name, num_classes=0, global_pool="token").eval()
    model.load_state_dict(stored(path))
    images = towers.scenes(4)
    assert difference(encode(encoder, images), by_timm(model, images, 256, 256)) < TOLERANCE


def test_classifiers_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "deit.safetensors"
    state = timm.create_model("deit_tiny_distilled_patch16_224").state_dict()
    assert {"head.weight", "head_dist.weight"} <= state.keys()
    safetensors.torch.save_file(state, path)
    encoder = load_encoder("timm:deit_tiny_distilled_patch16_224:fb_in1k", weights=path)
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=0).eval()
    model.load_state_dict({k: v for k, v in state.items() if not k.startswith("head")})
    images = towers.scenes(2)
    assert difference(encode(encoder, images), by_timm(model, images, 248, 224)) < TOLERANCE


def test_coca_gives_its_pooled_vector(tmp_path: Path, scenes: list[Image.Image]) -> None:
    vision = towers.CLIP_CONFIG["vision_cfg"] | {"attentional_pool": True, "output_tokens": True}
    config = towers.CLIP_CONFIG | {"vision_cfg": vision}
    text = config["text_cfg"] | {"embed_cls": True, "output_tokens": True}
    decoder = {"width": 16, "heads": 2, "layers": 1, "context_length": 8, "vocab_size": 32}
    torch.manual_seed(0)
    model = open_clip.CoCa(
        48, {**decoder, "attn_pooler_heads": 2}, text, vision, quick_gelu=True
    ).eval()
    path = tmp_path / "coca.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    encoder = load_encoder(towers.clip_record(config=config), weights=path)
    expected_BD = by_open_clip(model, scenes[:4], size=64)
    assert difference(encode(encoder, scenes[:4]), expected_BD) < TOLERANCE


@pytest.mark.parametrize("pooling", ["cls", "mean_patch", "cls+mean"])
def test_pooling(pooling: str, folder: Path, scenes: list[Image.Image]) -> None:
    dim = 128 if pooling == "cls+mean" else 64
    record = towers.dino_record(pooling=pooling, dim=dim)
    encoder = load_encoder(record, weights=folder / "dino.safetensors")
    pixels_BCHW = torch.stack([encoder.preprocess(image) for image in scenes[:3]])
    mean_C11 = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    std_C11 = torch.tensor(IMAGENET_STD).view(3, 1, 1)
    with torch.inference_mode():
        tokens_BLD = encoder.module.tower.forward_features((pixels_BCHW / 255 - mean_C11) / std_C11)
    parts = {
        "cls": [tokens_BLD[:, 0]],
        "mean_patch": [tokens_BLD[:, 1:].mean(dim=1)],
        "cls+mean": [tokens_BLD[:, 0], tokens_BLD[:, 1:].mean(dim=1)],
    }
    expected_BD = torch.nn.functional.normalize(torch.cat(parts[pooling], dim=1), dim=1)
    assert difference(encoder(pixels_BCHW), expected_BD) < TOLERANCE
    assert encoder(pixels_BCHW).shape[1] == encoder.dim


@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_bfloat16_is_close(kind: str, folder: Path, scenes: list[Image.Image]) -> None:
    record = towers.clip_record() if kind == "clip" else towers.dino_record()
    path = folder / f"{kind}.safetensors"
    exact_BD = encode(load_encoder(record, weights=path), scenes)
    rounded = load_encoder(record, weights=path, dtype="bf16")
    assert rounded.dtype == torch.bfloat16
    assert {value.dtype for value in rounded.module.tower.parameters()} == {torch.bfloat16}
    rounded_BD = encode(rounded, scenes)
    assert rounded_BD.dtype == torch.float32
    assert difference(rounded_BD.norm(dim=1), torch.ones(len(scenes))) < 1e-6
    assert 1e-4 < difference(cosines(rounded_BD), cosines(exact_BD)) < 3e-2


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_gpu_equals_cpu(kind: str, folder: Path, scenes: list[Image.Image]) -> None:
    record = towers.clip_record() if kind == "clip" else towers.dino_record()
    path = folder / f"{kind}.safetensors"
    on_cpu = encode(load_encoder(record, weights=path), scenes)
    on_gpu = encode(load_encoder(record, weights=path, device="cuda"), scenes)
    assert on_gpu.device.type == "cuda"
    # TF32 anywhere would move them by 1e-3.
    assert difference(on_gpu.cpu(), on_cpu) < TOLERANCE


# The position embedding.


@pytest.mark.parametrize(("old_grid", "grid"), [(37, 16), (8, 5), (5, 8)])
def test_position_embedding_as_the_hub_resamples_it(old_grid: int, grid: int) -> None:
    torch.manual_seed(0)
    embedding_1LD = torch.randn(1, 1 + old_grid**2, 3)
    new_1LD = resample_position_embedding(embedding_1LD, 1, grid, antialias=False)
    assert new_1LD.shape == (1, 1 + grid**2, 3)
    assert difference(new_1LD, hub_position(embedding_1LD, grid)) < TOLERANCE
    by_size_1LD = resample_position_embedding(embedding_1LD, 1, grid, antialias=True)
    assert difference(new_1LD, by_size_1LD) > 0.05


def test_position_embedding_with_registers_is_antialiased() -> None:
    torch.manual_seed(0)
    embedding_1LD = torch.randn(1, 37**2, 1)
    new_1LD = resample_position_embedding(embedding_1LD, 0, 16, antialias=True)
    # Pillow's resize has the same kernel and is an implementation of its own.
    image = Image.fromarray(embedding_1LD.reshape(37, 37).numpy())
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC))
    assert difference(new_1LD.reshape(16, 16), torch.from_numpy(expected.copy())) < TOLERANCE


def test_position_embedding_of_the_right_size_is_kept() -> None:
    embedding_1LD = torch.randn(1, 1 + 16**2, 3)
    for antialias in (False, True):
        kept_1LD = resample_position_embedding(embedding_1LD, 1, 16, antialias=antialias)
        assert torch.equal(kept_1LD, embedding_1LD)


def test_native_position_embedding_is_not_resampled(folder: Path) -> None:
    record = towers.dino_record(position_embedding="native")
    with pytest.raises(ResourceError, match=r"1 \(pos_embed \[1, 1370, 64\] instead of"):
        load_encoder(record, weights=folder / "dino.safetensors")


# Layouts of weights files.


def test_image_tower_alone_is_accepted(
    clip: TorchEncoder, folder: Path, tmp_path: Path, scenes: list[Image.Image]
) -> None:
    state = safetensors.torch.load_file(folder / "clip.safetensors")
    assert any(name.startswith("token_embedding") for name in state)
    visual = {
        name.removeprefix("visual."): value
        for name, value in state.items()
        if name.startswith("visual.")
    }
    safetensors.torch.save_file(visual, tmp_path / "visual.safetensors")
    encoder = load_encoder(towers.clip_record(), weights=tmp_path / "visual.safetensors")
    assert torch.equal(encode(encoder, scenes[:4]), encode(clip, scenes[:4]))


def test_hub_layout_is_accepted(
    dino: TorchEncoder, folder: Path, tmp_path: Path, scenes: list[Image.Image]
) -> None:
    state = safetensors.torch.load_file(folder / "dino.safetensors")
    state["mask_token"] = torch.zeros(1, 64)
    safetensors.torch.save_file(state, tmp_path / "hub.safetensors")
    encoder = load_encoder(towers.dino_record(), weights=tmp_path / "hub.safetensors")
    assert torch.equal(encode(encoder, scenes[:4]), encode(dino, scenes[:4]))


def test_hub_layout_with_registers_is_accepted(tmp_path: Path) -> None:
    config = towers.DINO_CONFIG | {"reg_tokens": 4, "no_embed_class": True}
    path = towers.write_dino_weights(tmp_path / "reg.safetensors", config, layout="hub", grid=11)
    record = towers.dino_record(config=config, position_embedding="hub-antialias")
    tower = load_encoder(record, weights=path).module.tower
    state = stored(path)
    position_1LD = resample_position_embedding(state["pos_embed"], 1, 8, antialias=True)
    patches_BLD = torch.randn(2, 64, 64)
    # The hub adds positions to class token and patches, and then puts the registers in between.
    cls_BLD = (state["cls_token"] + position_1LD[:, :1]).expand(2, -1, -1)
    registers_BLD = state["register_tokens"].expand(2, -1, -1)
    expected_BLD = torch.cat([cls_BLD, registers_BLD, patches_BLD + position_1LD[:, 1:]], dim=1)
    assert difference(tower._pos_embed(patches_BLD), expected_BLD) < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("norm.weight"), r"1 \(norm.weight\) missing, 0 not expected"),
        (
            lambda state: [state.pop(f"blocks.{k}.ls1.gamma") for k in range(4)],
            r"4 \(blocks.0.ls1.gamma, blocks.1.ls1.gamma, blocks.2.ls1.gamma, \.\.\.\) missing",
        ),
        (lambda state: state.update(extra=torch.zeros(1)), r"1 \(extra\) not expected"),
        (
            lambda state: state.update({"norm.bias": torch.zeros(3)}),
            r"1 \(norm.bias \[3\] instead of \[64\]\) of another shape",
        ),
    ],
)
def test_weights_that_do_not_fit(
    change: Callable[[dict[str, torch.Tensor]], object], message: str, folder: Path, tmp_path: Path
) -> None:
    state = safetensors.torch.load_file(folder / "dino.safetensors")
    change(state)
    safetensors.torch.save_file(state, tmp_path / "changed.safetensors")
    with pytest.raises(ResourceError, match=message):
        load_encoder(towers.dino_record(), weights=tmp_path / "changed.safetensors")


def test_unknown_tensor_beside_the_image_tower_is_refused(folder: Path, tmp_path: Path) -> None:
    state = safetensors.torch.load_file(folder / "clip.safetensors")
    state["adapter.weight"] = torch.zeros(2)
    safetensors.torch.save_file(state, tmp_path / "adapter.safetensors")
    with pytest.raises(ResourceError, match=r"1 \(adapter.weight\) not expected"):
        load_encoder(towers.clip_record(), weights=tmp_path / "adapter.safetensors")


# Files that are refused.


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("container", ["pickle", "torch.save"])
def test_pickle_is_refused_unopened(container: str, tmp_path: Path) -> None:
    path, sprung = tmp_path / "ViT-L-14.pt", tmp_path / "sprung"
    if container == "pickle":
        path.write_bytes(pickle.dumps(Trap(sprung)))
    else:
        torch.save(Trap(sprung), path)
    with pytest.raises(
        ResourceError, match=r'is a pickle.*\n.*\n.*torch.load\("ViT-L-14.pt", weights_only=True\)'
    ):
        load_encoder(towers.clip_record(), weights=path)
    assert not sprung.exists()


@pytest.mark.parametrize("length", [0x0280, int.from_bytes(b"PK", "little")])
def test_header_whose_length_looks_like_another_format_is_read(length: int, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
    path.write_bytes(length.to_bytes(8, "little") + header + b"\0\0\x80\x3f")
    assert path.read_bytes().startswith((b"\x80", b"PK"))
    assert read_safetensors(path) == {"a": torch.ones(1)}


def test_torchscript_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "ViT-L-14.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ViT-L-14/data.pkl", b"\x80\x02.")
        archive.writestr("ViT-L-14/code/__torch__.py", "")
    with pytest.raises(
        ResourceError, match=r"TorchScript archive.*\n.*\n.*torch\.jit\.load.*\n.*safetensors"
    ):
        load_encoder(towers.clip_record(), weights=path)


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ResourceError, match="is no safetensors file"):
        load_encoder(towers.clip_record(), weights=path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"no weights file at .*absent.*--clip-weights"):
        locate(towers.clip_record(), tmp_path / "absent")


def test_record_without_hub_wants_a_file() -> None:
    with pytest.raises(ResourceError, match="on no hub; give a safetensors file"):
        locate(towers.clip_record(), None)


def test_missing_weights_name_repository_and_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ResourceError,
        match=r"open_clip_model.safetensors of timm/vit_large_patch14_clip_224.openai is not in "
        r"the hub's local cache .*hf download .*--clip-weights",
    ):
        load_encoder("clip-vit-l-14")


def test_weights_are_taken_from_the_hubs_cache(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repo = tmp_path / "models--some--clip"
    snapshot = repo / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    (snapshot / "m.safetensors").write_bytes((folder / "clip.safetensors").read_bytes())
    record = towers.clip_record(weights_repo="some/clip", weights_file="m.safetensors")
    found, path = locate(record, None)
    assert path == snapshot / "m.safetensors"
    assert found.encoder_id == locate(record, folder / "clip.safetensors")[0].encoder_id


def test_bundled_weights_are_checked(
    folder: Path, scenes: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(miner.weights, "BUNDLED", folder)
    record = towers.clip_record(bundled="clip.safetensors")
    sha256 = locate(record, None)[0].weights_sha256
    right = towers.clip_record(bundled="clip.safetensors", weights_sha256=sha256)
    assert encode(load_encoder(right), scenes[:2]).shape == (2, 48)
    wrong = towers.clip_record(bundled="clip.safetensors", weights_sha256=SHA256)
    with pytest.raises(ResourceError, match=rf"sha256 {sha256}, the record wants {SHA256}"):
        load_encoder(wrong)


def test_weights_by_url_are_the_files_whose_hash_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = towers.write_clip_weights(tmp_path / "clip.safetensors")
    here = locate(towers.clip_record(), path)[0]
    url = f"file://{path}#sha256={here.weights_sha256}"
    found, file = locate(towers.clip_record(), url)
    assert found == here
    assert file.is_relative_to(tmp_path / "home")
    with pytest.raises(ResourceError, match=f"has sha256 {here.weights_sha256}, asked for is 000"):
        locate(towers.clip_record(), f"file://{path}#sha256={'0' * 64}")


def test_changed_file_gets_another_hash(tmp_path: Path) -> None:
    path = towers.write_clip_weights(tmp_path / "clip.safetensors", seed=1)
    first = locate(towers.clip_record(), path)[0].encoder_id
    towers.write_clip_weights(path, seed=2)
    assert locate(towers.clip_record(), path)[0].encoder_id != first


# What goes in.


def test_pixels_are_checked(clip: TorchEncoder) -> None:
    with pytest.raises(ValueError, match=r"float32 \[1, 3, 64, 64\], small-clip wants uint8"):
        clip(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"uint8 \[3, 64, 64\], small-clip wants .*\[B, 3, 64"):
        clip(torch.zeros(3, 64, 64, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"uint8 \[1, 3, 32, 64\], small-clip wants"):
        clip(torch.zeros(1, 3, 32, 64, dtype=torch.uint8))


def test_device_and_dtype_are_checked(folder: Path) -> None:
    path = folder / "clip.safetensors"
    with pytest.raises(ValueError, match="dtype is float64; give float32"):
        load_encoder(towers.clip_record(), weights=path, dtype=torch.float64)
    for device in ("gpu", "meta"):
        with pytest.raises(ValueError, match=f"device is {device}; give cpu, cuda or cuda:N"):
            load_encoder(towers.clip_record(), weights=path, device=device)
    with pytest.raises(ResourceError, match=r"device cuda:63 is not there: .*--device cpu"):
        load_encoder(towers.clip_record(), weights=path, device="cuda:63")


def test_import_is_light() -> None:
    code = (
        "import sys, miner.encoders, torch;"
        "print(sorted({'open_clip', 'timm', 'huggingface_hub'} & set(sys.modules)),"
        " torch.cuda.is_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[] False\n", "")


# Records.


@pytest.mark.parametrize("name", [name for name, line in REGISTRY.items() if not line.bundled])
def test_registry_fits_its_libraries(name: str) -> None:
    record = REGISTRY[name]
    with torch.device("meta"):
        tower = build_tower(record)
    if record.library == "open_clip":
        derived = find_record(f"open_clip:{record.model}:{record.weights}")
        described = {"name", "licence"}
        assert record.model_dump(exclude=described) == derived.model_dump(exclude=described)
    else:
        assert record.dim == tower.num_features
        assert record.weights_repo == tower.pretrained_cfg["hf_hub_id"]
        assert tower.patch_embed.grid_size[0] == 224 // tower.patch_embed.patch_size[0] or (
            record.position_embedding == "native"
        )


@pytest.mark.parametrize("name", [name for name, line in REGISTRY.items() if line.bundled])
def test_bundled_encoders_load(name: str) -> None:
    encoder = load_encoder(name)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    vectors = encoder(pixels)
    assert vectors.shape == (2, encoder.dim)
    assert encoder.record.weights_sha256 == REGISTRY[name].weights_sha256


def test_presets_share_clips_view() -> None:
    clip = REGISTRY["clip-vit-l-14"]
    shared, pixels = (
        REGISTRY[f"dinov2-vit-l-14-{preset}"] for preset in ("shared-crop", "clip-pixels")
    )
    assert shared.crop == pixels.crop == clip.crop
    assert (pixels.mean, pixels.std) == (clip.mean, clip.std)
    assert (shared.mean, shared.std) == (IMAGENET_MEAN, IMAGENET_STD)


def squash(size: int, interpolation: str = "bicubic") -> CropSpec:
    return CropSpec(mode="squash", resize_to=size, size=size, interpolation=interpolation)


def shortest(resize_to: int, size: int) -> CropSpec:
    return CropSpec(mode="shortest", resize_to=resize_to, size=size)


@pytest.mark.parametrize(
    ("name", "crop", "mean", "std", "pooling"),
    [
        # The traps: each is what another encoder of the same family does not do.
        (
            "open_clip:ViT-H-14-quickgelu:dfn5b",
            squash(224),
            CLIP_MEAN,
            CLIP_STD,
            "clip_projection",
        ),
        (
            "open_clip:ViT-L-14:laion2b_s32b_b82k",
            shortest(224, 224),
            HALF,
            HALF,
            "clip_projection",
        ),
        ("open_clip:PE-Core-L-14-336:meta", squash(336, "bilinear"), HALF, HALF, "clip_projection"),
        ("open_clip:ViT-B-16-SigLIP-384:webli", squash(384), HALF, HALF, "clip_projection"),
        (
            "timm:vit_base_patch16_dinov3:lvd1689m",
            shortest(256, 256),
            IMAGENET_MEAN,
            IMAGENET_STD,
            "cls",
        ),
        ("timm:vit_base_patch16_siglip_224:webli", shortest(248, 224), HALF, HALF, "default"),
    ],
)
def test_preprocessing_is_the_librarys(
    name: str, crop: CropSpec, mean: Any, std: Any, pooling: str
) -> None:
    record = find_record(name)
    assert (record.crop, record.mean, record.std) == (crop, mean, std)
    assert record.pooling in (pooling, f"library_{pooling}")
    assert record.name == name.replace(":", "-")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-L-14:openai", "trained with QuickGELU, but .* use ViT-L-14-quickgelu"),
        ("open_clip:ViT-L-14:dfn2b", "trained with QuickGELU, but .* use ViT-L-14-quickgelu"),
        (
            "open_clip:ViT-L-14-quickgelu:laion2b_s32b_b82k",
            r"trained without QuickGELU, but .* use ViT-L-14$",
        ),
        ("open_clip:ViT-L-14-quickgelu:dfn2b_s39b", r"trained without .* use ViT-L-14$"),
        ("open_clip:ViT-L-14:imaginary", "no weights 'imaginary' for ViT-L-14; it has openai, "),
        ("open_clip:ViT-Q-14:openai", "open_clip has no model 'ViT-Q-14'"),
        ("timm:vit_base_patch14_dinov2:imaginary", "no weights 'imaginary' .* it has lvd142m"),
        ("timm:vit_imaginary:lvd142m", "timm has no model 'vit_imaginary'"),
        ("timm:dm_nfnet_f0:dm_in1k", "resizes by squash, bicubic, to 192x192 of 213; only short"),
        ("clip-vit-l-15", r"no encoder is called 'clip-vit-l-15'; .*clip-vit-l-14, "),
        ("keras:a:b", "no encoder is called 'keras:a:b'"),
    ],
)
def test_unknown_and_mismatched_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_record(name)


def test_mismatched_records_are_refused() -> None:
    fields = REGISTRY["clip-vit-l-14"].model_dump()
    with pytest.raises(ValueError, match="use ViT-L-14-quickgelu"):
        load_encoder(EncoderRecord(**fields | {"model": "ViT-L-14"}))
    with pytest.raises(
        ValueError, match="record says gelu, ViT-L-14-quickgelu computes with quick"
    ):
        load_encoder(EncoderRecord(**fields | {"activation": "gelu"}))


def test_contradicting_records_are_refused() -> None:
    with pytest.raises(ValueError, match="open_clip has no pooling cls"):
        towers.clip_record(pooling="cls")
    with pytest.raises(ValueError, match="timm has no pooling clip_projection"):
        towers.dino_record(pooling="clip_projection")
    with pytest.raises(ValueError, match="activation is gelu for timm"):
        towers.dino_record(activation="gelu")
    with pytest.raises(ValueError, match="position_embedding is hub, which only timm's"):
        towers.clip_record(position_embedding="hub")


def test_encoder_id_is_stable() -> None:
    record = REGISTRY["dinov2-vit-l-14"].model_copy(update={"weights_sha256": SHA256})
    assert record.encoder_id == "dinov2-vit-l-14-bb4b145f"
    with pytest.raises(ValueError, match="no encoder_id before the weights are known"):
        _ = REGISTRY["dinov2-vit-l-14"].encoder_id


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"weights_sha256": "1" * 64}, False),
        ({"crop": shortest(224, 224)}, False),
        ({"mean": HALF}, False),
        ({"std": HALF}, False),
        ({"pooling": "mean_patch"}, False),
        ({"position_embedding": "hub-antialias"}, False),
        ({"config": {"depth": 3}}, False),
        ({"licence": "another"}, True),
        ({"weights_repo": "a/mirror", "weights_file": "m.safetensors"}, True),
        ({"dino_below": 0.5}, True),
    ],
    ids=str,
)
def test_encoder_id_covers_what_makes_the_vector(change: dict[str, Any], same: bool) -> None:
    record = REGISTRY["dinov2-vit-l-14"].model_copy(update={"weights_sha256": SHA256})
    assert (record.model_copy(update=change).encoder_id == record.encoder_id) == same
