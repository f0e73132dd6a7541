"""The endpoint that orchestrators ask: alive is not ready, and nothing that strangers send holds it up."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from meshkit.health_endpoint import health_endpoint, main


async def test_alive_is_not_ready() -> None:
    serving = asyncio.Event()
    async with health_endpoint("127.0.0.1", 0, serving.is_set) as port, httpx.AsyncClient(trust_env=False) as client:
        url = f"http://127.0.0.1:{port}"
        assert [(await client.get(f"{url}/{path}")).status_code for path in ("live", "ready", "metrics")] == [
            200,
            503,
            404,
        ]
        assert await asyncio.to_thread(main, str(port)) == 1
        serving.set()
        assert (await client.get(f"{url}/ready")).status_code == 200
        assert await asyncio.to_thread(main, str(port)) == 0
    assert await asyncio.to_thread(main, str(port)) == 1


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n", b"GET /ready", b"POST /ready HTTP/1.1\r\n\r\n", b"x" * 100_000])
async def test_whatever_is_sent_the_next_one_is_answered(sent: bytes) -> None:
    async with health_endpoint("127.0.0.1", 0, lambda: True) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        writer.close()
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"http://127.0.0.1:{port}/live")).status_code == 200
