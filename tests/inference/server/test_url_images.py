"""A server fetches as it was told to, and refusals are errors of the request."""

import asyncio

import pytest

from tests.data.images.picture_server import serving
from visor_jax.data.images.url_fetching import UrlFetcher
from visor_jax.inference.server.api_errors import ApiError
from visor_jax.inference.server.url_images import fetching


def test_what_is_allowed_is_fetched_and_what_is_not_is_an_error_of_the_request():
    with serving() as server:
        server.has("/a.png", b"content", "Content-Type: image/png")
        server.leads("/away", "http://127.0.0.2/a.png")
        here = f"127.0.0.1:{server.port}"
        fetcher = UrlFetcher(hosts=(here,), networks=("127.0.0.1/32",))
        fetch = fetching(fetcher)

        async def fetched(*paths):
            return await asyncio.gather(*[fetch(f"http://{here}{p}") for p in paths])

        # More than are fetched at once.
        assert asyncio.run(fetched(*["/a.png"] * 20)) == [b"content"] * 20
        with pytest.raises(ApiError, match="is not among the allowed hosts") as caught:
            asyncio.run(fetched("/away"))
        body = caught.value.body()["error"]
        assert (caught.value.status_code, body["param"]) == (400, "messages")
