"""The HTTP client of `OpenAIBackend`, with answers of bounded size, and only from the server that was named."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

#: maximum size of an answer in bytes, after decompression; a text of 100,000 tokens has less than one MiB
LARGEST_ANSWER = 16 * 2**20

#: maximum number of redirects that a request may follow
MOST_REDIRECTS = 5


class UnusableAnswer(ValueError):
    """The server's answer cannot be read, and asking again would not help."""


@lru_cache(maxsize=1)
def bounded_client() -> type[Any]:
    """The class of the client, a subclass of the one in the installed openai package."""
    import openai

    class BoundedClient(openai.DefaultAsyncHttpxClient):  # type: ignore[misc, unused-ignore]
        """Reads at most `LARGEST_ANSWER` bytes of an answer and follows redirects only within one host and port."""

        async def send(self, request: Any, **options: Any) -> Any:
            """The answer to `request`, read completely; `UnusableAnswer` if it is too large or from another server."""
            # Ask for uncompressed data: a decompressor may turn a single piece into gigabytes.
            request.headers["Accept-Encoding"] = "identity"
            for _ in range(MOST_REDIRECTS + 1):
                answer = await super().send(request, **options | {"stream": True, "follow_redirects": False})
                try:
                    if answer.next_request is None:
                        return await _read(answer)
                finally:
                    await answer.aclose()
                _check_same_server(request.url, answer.next_request.url)
                request = answer.next_request
            raise UnusableAnswer(f"it redirects more than {MOST_REDIRECTS} times")

    return BoundedClient


def _check_same_server(asked: Any, target: Any) -> None:
    here, there = ((url.scheme, url.host, url.port) for url in (asked, target))
    if here != there:
        name = f"{target.scheme}://{target.host}{f':{target.port}' if target.port else ''}"
        raise UnusableAnswer(
            f"it redirects to another server, {name}, which is not sent the prompts and the key: "
            "give that server's URL as base_url if it is the right one"
        )


async def _read(answer: Any) -> Any:
    """`answer` with its body in memory, decompressed."""
    body = bytearray()
    async for piece in _decompressed(answer):
        body += piece
        if len(body) > LARGEST_ANSWER:
            raise UnusableAnswer(f"an answer of more than {LARGEST_ANSWER} bytes")
    framing = {"content-encoding", "content-length", "transfer-encoding"}
    return type(answer)(
        answer.status_code,
        headers=[(name, value) for name, value in answer.headers.multi_items() if name not in framing],
        content=bytes(body),
        request=answer.request,
    )


async def _decompressed(answer: Any) -> AsyncIterator[bytes]:
    """The pieces of a body, each at most one byte longer than `LARGEST_ANSWER`."""
    encoding = answer.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise UnusableAnswer(f"an answer compressed as {encoding[:40]!r}, which was not asked for")
    unpacker = None if encoding == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 32)
    async for piece in answer.aiter_raw():
        try:
            yield piece if unpacker is None else unpacker.decompress(piece, LARGEST_ANSWER + 1)
        except zlib.error as error:
            raise UnusableAnswer(f"an answer that is not compressed as {encoding}, as it says: {error}") from error
    if unpacker is not None and not unpacker.eof:
        raise UnusableAnswer(f"an answer compressed as {encoding} that ends too early")


def checked_url(base_url: str, key: str | None) -> str:
    """The URL without a trailing slash; ValueError, which never shows the URL, if it is invalid or contains a key."""
    try:
        parts = urlsplit(base_url)
    except ValueError:  # brackets around what is no IPv6 address
        parts = urlsplit("")
    if parts.username or parts.password or parts.query or parts.fragment or (key and key in base_url):
        raise ValueError(
            "base_url must consist of scheme, host, port and path only: no user, query or key "
            "(a key comes from the environment variable that api_key_env names)"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError('base_url must be a URL such as "http://localhost:8000/v1"')
    return base_url.rstrip("/")
