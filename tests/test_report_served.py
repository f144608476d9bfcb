"""A report's page as it is served."""

import pytest

from miner.errors import StoreError
from miner.reviewing.served_page import MARK, MAY_SAVE, POLICY, served_page

PAGE = b'<html><meta charset="utf-8"><meta ' + POLICY + b'img-src x">' + b" " * 4096 + POLICY


def test_its_policy_lets_it_save_and_it_is_told() -> None:
    served = served_page(PAGE)
    assert served.startswith(b"<html>" + MARK + b'<meta charset="utf-8"><meta ' + POLICY + MAY_SAVE)
    assert served.count(MAY_SAVE) == served.count(MARK) == 1


@pytest.mark.parametrize("page", [b"", b"<html>", b" " * 4096 + PAGE])
def test_another_page_is_refused(page: bytes) -> None:
    with pytest.raises(StoreError, match="edited or made by another version; run `blindpairs rep"):
        served_page(page)
