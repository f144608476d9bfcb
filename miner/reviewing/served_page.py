"""A report's page as a server gives it: told that it is served, and allowed to save."""

from __future__ import annotations

from miner.errors import StoreError

POLICY = b'content="default-src &#39;none&#39;; '
"""How the policy of a report's page begins, in the page."""

MAY_SAVE = b"connect-src &#39;self&#39;; "
"""What its policy allows a served page besides: to ask its own server."""

MARK = b'<meta name="review-server" content="here">'
"""What tells a page's script that it is served."""

HEAD_BYTES = 4096
"""Where in the page its policy stands, at the latest."""


def served_page(page: bytes) -> bytes:
    """The page as it is served.

    Args:
        page: index.html of a report; from disk it may ask nobody for anything.

    Raises:
        StoreError: it is no page of this version.
    """
    if page.count(POLICY, 0, HEAD_BYTES) != 1:
        raise StoreError(
            "index.html of the report was edited or made by another version; "
            "run `blindpairs report` again"
        )
    page = page.replace(POLICY, POLICY + MAY_SAVE, 1)
    return page.replace(b"<meta charset", MARK + b"<meta charset", 1)
