"""The command, and the service without what it needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from miner.errors import ResourceError
from miner.store import Store
from pipelines.serve import create_app
from tests.commands import Commands
from tests.serving import settings_of


def test_every_setting_is_an_option(commands: Commands) -> None:
    ran = commands("serve", "--help")
    assert ran.code == 0
    for option in ("--index", "--max-batch", "--max-wait-ms", "--token-file", "--drain-s"):
        assert option in ran.out


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ResourceError, match=r'pip install "blindpairs\[serve\]"'):
        create_app(settings_of())


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--host", "0.0.0.0"), 2, "others than this machine could call"),
        (("--max-queue", "1"), 2, "no batch could become full"),
        (("--clip", "nothing"), 2, "no encoder is called 'nothing'"),
        (("--index", "nothing"), 4, "holds no run"),
    ],
)
def test_what_it_does_not_start_with(
    commands: Commands, words: tuple[str, ...], code: int, said: str, tmp_path: Path
) -> None:
    ran = commands("serve", "--dino", "demo-dino", "--port", "0", *words)
    assert ran.code == code
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_encoders_of_another_run_are_refused(commands: Commands, index: Store) -> None:
    ran = commands("serve", *commands.encoders, "--index", index.root, "--port", "0")
    assert ran.code == 2
    assert "their cosines mean nothing" in ran.err
