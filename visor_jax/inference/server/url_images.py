"""Images of http and https addresses, for a server that was told from which hosts."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from visor_jax.data.images.url_fetching import UrlFetcher
from visor_jax.inference.server.api_errors import ApiError
from visor_jax.inference.server.request_translation import Fetch

# More wait: hosts that are slow take no thread from anything else.
_AT_ONCE = 8


def fetching(fetcher: UrlFetcher) -> Fetch:
    """Returns how the server fetches: refusals are errors of the request."""
    threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch")

    async def fetch(url: str) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(threads, fetcher, url)
        except ValueError as error:
            raise ApiError(400, str(error), param="messages") from error

    return fetch
