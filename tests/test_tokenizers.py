"""Texts become the tokens of their tower's own tokenizer, or a refusal."""

from __future__ import annotations

import logging
import sys
import types
from typing import Any

import open_clip
import pytest
import torch

from miner.encoders import find_record
from miner.errors import ResourceError
from miner.tokenizers import WordTokenizer, find_tokenizer
from tests import towers

WORDS = ["<pad>", "blue", "red", "sign", "<end>"]


def test_clip_has_open_clips_tokenizer() -> None:
    texts = ["a photo of a cat", "Straße №5", ""]
    tokens_BL = find_tokenizer(find_record("clip-vit-l-14"))(texts)
    assert torch.equal(tokens_BL, open_clip.get_tokenizer("ViT-L-14-quickgelu")(texts))


def test_a_long_text_is_cut_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = find_tokenizer(find_record("clip-vit-b-32"))
    with caplog.at_level(logging.WARNING):
        tokenizer(["word " * 75])
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        tokens_BL = tokenizer(["short", "word " * 76])
    assert "clip-vit-b-32: 1 of 2 texts have more than 77 tokens and are cut" in caplog.text
    assert tokens_BL.shape == (2, 77)
    assert tokens_BL[1, -1] == tokens_BL.max()


def test_another_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="no tokenizer is known for a vocabulary of 32; CLIP's"):
        find_tokenizer(towers.clip_record())


def test_words() -> None:
    tokenizer = WordTokenizer("demo-clip", WORDS, 4)
    assert tokenizer(["red  Sign", ""]).tolist() == [[2, 3, 4, 0], [4, 0, 0, 0]]
    with pytest.raises(ValueError, match="demo-clip does not know the word 'sign,'; it knows only"):
        tokenizer(["red sign, blue"])
    with pytest.raises(ValueError, match="does not know the word '<end>'"):
        tokenizer(["red <end>"])
    with pytest.raises(ValueError, match="has 4 words, at most 3 fit"):
        tokenizer(["red red red red"])


def test_siglip_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ResourceError, match="its tokenizer needs the package transformers"):
        find_tokenizer(find_record("siglip-vit-b-16"))


def test_siglip_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    class AutoTokenizer:
        @staticmethod
        def from_pretrained(name: str, **settings: Any) -> None:
            raise OSError(f"cannot reach {name}\nand more")

    module = types.SimpleNamespace(AutoTokenizer=AutoTokenizer)
    monkeypatch.setitem(sys.modules, "transformers", module)  # type: ignore[arg-type]
    told = r"tokenizer of timm/ViT-B-16-SigLIP is not in .* \(OSError: cannot reach timm/ViT-B-16"
    with pytest.raises(ResourceError, match=told):
        find_tokenizer(find_record("siglip-vit-b-16"))
