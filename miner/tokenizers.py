"""Tokenizers of text towers: sentences to the numbers that a tower reads.

CLIP's is bundled with open_clip; SigLIP's and others lie on the hub and are read by transformers;
`demo-clip` knows a few words, listed beside its weights.

    B texts, L tokens
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from miner.errors import ResourceError
from miner.libraries import clip_config
from miner.registry import BUNDLED, EncoderRecord

log = logging.getLogger(__name__)

CLIP_VOCABULARY = 49_408
"""Tokens of CLIP's own tokenizer."""

Tokenizer = Callable[[Sequence[str]], torch.Tensor]
"""Texts to [B, L] int64, L being the tower's context length."""


def find_tokenizer(record: EncoderRecord) -> Tokenizer:
    """The tokenizer with which a record's text tower was trained.

    Raises:
        ValueError: none is known for its vocabulary.
        ResourceError: it lies on the hub, and neither the cache nor the network gives it.
    """
    text = clip_config(record)["text_cfg"]
    length = text["context_length"]
    if record.bundled is not None:
        content = json.loads((BUNDLED / record.bundled).with_suffix(".json").read_text("utf-8"))
        return WordTokenizer(record.name, content["vocabulary"], length)
    if text.get("hf_tokenizer_name"):
        return _hub_tokenizer(record)
    if text["vocab_size"] != CLIP_VOCABULARY:
        raise ValueError(
            f"{record.name}: no tokenizer is known for a vocabulary of {text['vocab_size']}; "
            f"CLIP's own has {CLIP_VOCABULARY}"
        )
    return ClipTokenizer(record.name, length, text.get("tokenizer_kwargs") or {})


class ClipTokenizer:
    """open_clip's tokenizer for CLIP, and a warning where it cuts a text."""

    def __init__(self, name: str, context_length: int, settings: dict[str, Any]) -> None:
        from open_clip.tokenizer import SimpleTokenizer

        self._name = name
        self._context_length = context_length
        self._tokenizer = SimpleTokenizer(context_length=context_length, **settings)

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """[B, L] int64 tokens; of a text that is too long the end token still comes last."""
        lengths = [len(self._tokenizer.encode(text)) + 2 for text in texts]
        cut = [index for index, length in enumerate(lengths) if length > self._context_length]
        if cut:
            log.warning(
                "%s: %d of %d texts have more than %d tokens and are cut, the first: %.80r",
                *(self._name, len(cut), len(texts), self._context_length, texts[cut[0]]),
            )
        tokens_BL: torch.Tensor = self._tokenizer(list(texts))
        return tokens_BL


class WordTokenizer:
    """Words to their places in a short list: that of `demo-clip`.

    Token k is the k-th word; the first pads, the last ends a text. Capitals count as small letters.
    """

    def __init__(self, name: str, vocabulary: Sequence[str], context_length: int) -> None:
        self._name = name
        self._context_length = context_length
        self._end = len(vocabulary) - 1
        self._ids = {word: number for number, word in enumerate(vocabulary[1:-1], start=1)}

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """[B, L] int64 tokens.

        Raises:
            ValueError: a word is unknown, or a text has more words than fit.
        """
        tokens_BL = torch.zeros(len(texts), self._context_length, dtype=torch.long)
        for row, text in enumerate(texts):
            line = [*map(self._id, text.lower().split()), self._end]
            if len(line) > self._context_length:
                raise ValueError(
                    f"{self._name}: {text[:80]!r} has {len(line) - 1} words, at most "
                    f"{self._context_length - 1} fit; shorten it"
                )
            tokens_BL[row, : len(line)] = torch.tensor(line)
        return tokens_BL

    def _id(self, word: str) -> int:
        if word not in self._ids:
            raise ValueError(
                f"{self._name} does not know the word {word[:40]!r}; it knows only "
                f"{len(self._ids)} words: {', '.join(self._ids)}"
            )
        return self._ids[word]


def _hub_tokenizer(record: EncoderRecord) -> Tokenizer:
    from open_clip.tokenizer import HFTokenizer

    text = clip_config(record)["text_cfg"]
    repo = text["hf_tokenizer_name"]
    try:
        tokenizer: Tokenizer = HFTokenizer(
            repo,
            context_length=text["context_length"],
            tokenizer_mode=text.get("tokenizer_mode"),
            **(text.get("tokenizer_kwargs") or {}),
        )
    except ImportError as error:
        raise ResourceError(
            f"{record.name}: its tokenizer needs the package transformers ({error}); run "
            "`pip install transformers`"
        ) from error
    # transformers raises what its HTTP library and its parsers do.
    except Exception as error:
        raise ResourceError(
            f"{record.name}: the tokenizer of {repo} is not in the hub's local cache and cannot be "
            f"fetched ({type(error).__name__}: {str(error).splitlines()[0]}); run `hf download "
            f"{repo}` where there is a network and copy the cache"
        ) from error
    return tokenizer
