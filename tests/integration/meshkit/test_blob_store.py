"""The object store against a real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
import os
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from meshkit.blob import BlobNotFound, BlobStore, BlobUnavailable
from meshkit.embedded import S3Identity, S3Server, free_port
from meshkit.testing.plugin import S3_IDENTITY

TTL = timedelta(minutes=5)


async def test_an_object_is_read_back_with_its_metadata(blob_store: BlobStore) -> None:
    await blob_store.put_bytes("a/ü b.bin", b"content", content_type="video/mp4", metadata={"sha256": "abc"})
    stat = await blob_store.stat("a/ü b.bin")
    assert (stat.size, stat.content_type, stat.metadata["sha256"]) == (7, "video/mp4", "abc")
    assert await blob_store.get_bytes("a/ü b.bin") == b"content"
    assert [item.key for item in await blob_store.list("a/")] == ["a/ü b.bin"]


async def test_what_is_not_there_is_not_found(blob_store: BlobStore) -> None:
    for request in (blob_store.stat("none"), blob_store.get_bytes("none")):
        with pytest.raises(BlobNotFound):
            await request
    await blob_store.remove("none")


async def test_a_large_file_is_streamed_from_any_offset(blob_store: BlobStore, tmp_path: Path) -> None:
    data = os.urandom(7 * 1024 * 1024 + 13)
    source = tmp_path / "source.bin"
    source.write_bytes(data)
    await blob_store.put_file("large", source)
    chunks = [chunk async for chunk in blob_store.iter_bytes("large", offset=5)]
    assert b"".join(chunks) == data[5:]
    assert max(len(chunk) for chunk in chunks) <= 1024 * 1024
    await blob_store.get_file("large", tmp_path / "copy.bin")
    assert (tmp_path / "copy.bin").read_bytes() == data


async def test_only_the_first_conditional_write_wins(blob_store: BlobStore) -> None:
    assert await blob_store.put_if_absent("manifest.json", b"first")
    assert not await blob_store.put_if_absent("manifest.json", b"second")
    assert await blob_store.get_bytes("manifest.json") == b"first"


async def test_a_multipart_upload_by_presigned_urls(blob_store: BlobStore) -> None:
    parts = [os.urandom(5 * 1024 * 1024), os.urandom(1000)]
    upload_id = await blob_store.create_multipart("clip.mp4", content_type="video/mp4")
    etags = []
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        for number, part in enumerate(parts, start=1):
            url = blob_store.presign_part("clip.mp4", upload_id, number, TTL, length=len(part))
            answer = await client.put(url, content=part)
            assert answer.status_code == 200, answer.text
            etags.append((number, answer.headers["etag"]))
    with pytest.raises(BlobNotFound):
        await blob_store.stat("clip.mp4")
    await blob_store.complete_multipart("clip.mp4", upload_id, list(reversed(etags)))
    stored = await blob_store.get_bytes("clip.mp4")
    assert hashlib.sha256(stored).digest() == hashlib.sha256(b"".join(parts)).digest()


async def test_an_aborted_upload_leaves_nothing(blob_store: BlobStore) -> None:
    upload_id = await blob_store.create_multipart("half")
    await blob_store.abort_multipart("half", upload_id)
    await blob_store.abort_multipart("half", upload_id)
    with pytest.raises(BlobNotFound):
        await blob_store.complete_multipart("half", upload_id, [(1, "0" * 32)])
    assert await blob_store.list() == []


async def test_a_presigned_get_downloads_under_the_given_name(blob_store: BlobStore) -> None:
    await blob_store.put_bytes("adapter", b"weights")
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(blob_store.presign_get("adapter", TTL, filename="adapter.safetensors"))
        assert (answer.status_code, answer.content) == (200, b"weights")
        assert "adapter.safetensors" in answer.headers["content-disposition"]


async def test_headers_that_a_sender_chose_are_not_what_a_reader_gets(blob_store: BlobStore) -> None:
    chosen = {
        "cache-control": "public, max-age=31536000",
        "content-disposition": 'attachment; filename="run-me.exe"',
        "content-language": "tlh",
        "expires": "Thu, 01 Jan 2099 00:00:00 GMT",
    }
    put = blob_store.presign_verified_put("clip", TTL, length=1, sha256=hashlib.sha256(b"x").hexdigest())
    async with httpx.AsyncClient(trust_env=False) as client:
        own = {"x-amz-meta-note": "chosen"}
        assert (await client.put(put.url, content=b"x", headers={**put.headers, **own})).status_code == 403
        assert (await client.put(put.url, content=b"x", headers={**put.headers, **chosen})).status_code == 200
        answer = await client.get(blob_store.presign_get("clip", TTL))
    assert (answer.status_code, answer.content) == (200, b"x")
    got = {name: answer.headers.get(name) for name in chosen}
    assert not set(got.values()) & set(chosen.values())
    assert (got["cache-control"], got["content-disposition"]) == ("private, max-age=300", "inline")


async def test_a_presigned_put_takes_the_signed_length_only(blob_store: BlobStore) -> None:
    url = blob_store.presign_put("clip", TTL, length=4)
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.put(url, content=b"12345")).status_code == 403
        assert (await client.put(url, content=b"1234")).status_code == 200
    assert await blob_store.get_bytes("clip") == b"1234"


@pytest.mark.parametrize(
    ("old", "new"),
    [("/clip?", "/other?"), ("X-Amz-Expires=300", "X-Amz-Expires=9000"), ("X-Amz-Signature=", "X-Amz-Signature=0")],
)
async def test_a_changed_url_is_refused(blob_store: BlobStore, old: str, new: str) -> None:
    url = blob_store.presign_put("clip", TTL)
    assert old in url
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.put(url.replace(old, new), content=b"x")).status_code == 403


async def test_another_method_and_an_expired_url_are_refused(blob_store: BlobStore) -> None:
    await blob_store.put_bytes("clip", b"x")
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.delete(blob_store.presign_get("clip", TTL))).status_code == 403
    with pytest.raises(ValueError, match="between"):
        blob_store.presign_get("clip", timedelta(0))
    assert await blob_store.get_bytes("clip") == b"x"


async def test_a_url_for_the_proxy_is_signed_for_its_host_and_without_its_prefix(s3_server: S3Server) -> None:
    public = BlobStore(
        s3_server.endpoint,
        S3_IDENTITY.access_key,
        S3_IDENTITY.secret_key,
        "test",
        public_url="https://mesh.example:8443/s3",
    )
    try:
        await public.ensure_bucket()
        await public.put_bytes("clip", b"through the proxy")
        url = urlsplit(public.presign_get("clip", TTL))
        assert (url.scheme, url.netloc, url.path) == ("https", "mesh.example:8443", "/s3/test/clip")
        # What the proxy makes of it: the prefix gone, the Host header as it came.
        behind = f"http://{s3_server.endpoint}{url.path.removeprefix('/s3')}?{url.query}"
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(behind, headers={"host": url.netloc})
        assert (answer.status_code, answer.content) == (200, b"through the proxy")
        await public.remove("clip")
    finally:
        await public.close()


async def test_a_prefix_is_removed_without_its_neighbours(blob_store: BlobStore) -> None:
    for key in ("jobs/1/a", "jobs/1/b", "jobs/10/a"):
        await blob_store.put_bytes(key, b"x")
    assert await blob_store.remove_prefix("jobs/1/") == 2
    assert [item.key for item in await blob_store.list()] == ["jobs/10/a"]
    with pytest.raises(ValueError, match="does not end"):
        await blob_store.remove_prefix("jobs/1")


async def test_a_store_that_is_away_is_unavailable_and_presigning_goes_on() -> None:
    store = BlobStore(f"127.0.0.1:{free_port()}", "key", "secret", "bucket")
    try:
        with pytest.raises(BlobUnavailable):
            await store.stat("x")
        assert "X-Amz-Signature=" in store.presign_get("x", TTL)
    finally:
        await store.close()


async def test_objects_and_identities_survive_kill_9_and_an_orderly_stop(tmp_path: Path) -> None:
    reader = S3Identity("reader-key", "reader-secret-0123456789", ("Read:data", "List:data"))
    server = S3Server(tmp_path / "s3", [S3_IDENTITY, reader])
    await server.start()
    store = BlobStore(server.endpoint, S3_IDENTITY.access_key, S3_IDENTITY.secret_key, "data")
    read_only = BlobStore(server.endpoint, reader.access_key, reader.secret_key, "data")
    try:
        await store.ensure_bucket()
        for number, end in enumerate((server.kill, server.stop)):
            await store.put_bytes(f"kept/{number}", b"kept" * 1000)
            await end()
            assert server.pid is None
            await server.start()
            for earlier in range(number + 1):
                assert await store.get_bytes(f"kept/{earlier}") == b"kept" * 1000
        assert len(await read_only.list("kept/")) == 2
        with pytest.raises(Exception, match="AccessDenied"):
            await read_only.put_bytes("kept/2", b"no")
    finally:
        await read_only.close()
        await store.close()
        await server.stop()


@pytest.mark.parametrize("body", [b"<ListBucketResult><Name>test</Nbme>", b"<ListBucketResult><Name>\xff", b""])
async def test_a_damaged_answer_is_no_answer(body: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = BlobStore(f"127.0.0.1:{port}", S3_IDENTITY.access_key, S3_IDENTITY.secret_key, "test")
    try:
        with pytest.raises(BlobUnavailable, match="cannot be read"):
            await store.list("a/")
    finally:
        await store.close()
        server.close()
