"""The live page of a scorer, for whoever has no dashboard at hand.

    /             page.html: one file, nothing from elsewhere; shows the document, and fetches it every two seconds
    /status.json  the document

Both are read-only. What came from events reaches the page as text within JSON and is put there as text; if that ever
failed, the policy lets no script run but the page's own, known by its hash, and lets nothing be fetched from elsewhere.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from importlib.resources import files

import msgspec

from pipeline.endpoint import NOTHING, Answer, Page
from pipeline.live.status import Status


def live_page(status: Callable[[], Status]) -> Mapping[str, Page]:
    """Return the page and its document, by path; `status` is called for each document."""
    html = files("pipeline.live").joinpath("page.html").read_bytes()
    policy = _policy(html)
    encode = msgspec.json.Encoder().encode
    return {
        "/": lambda accept: Answer(HTTPStatus.OK, "text/html; charset=utf-8", html, policy),
        "/status.json": lambda accept: Answer(HTTPStatus.OK, "application/json", encode(status())),
    }


def _policy(html: bytes) -> str:
    """Allow what is in the page, and nothing else; a script may turn no text into markup."""
    return (
        f"{NOTHING}; script-src {_hash_of('script', html)}; style-src {_hash_of('style', html)}; img-src data:; "
        "connect-src 'self'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _hash_of(element: str, html: bytes) -> str:
    (text,) = re.findall(rf"<{element}>(.*?)</{element}>".encode(), html, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
