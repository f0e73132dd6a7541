"""What the edge keeps out and what it lets through: sizes, rates, paths, origins, objects, services that are down."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
import os
import ssl
import stat
from pathlib import Path

import grpc
import httpx
import pytest
from reeltune.scheduler.v1 import training_history_pb2, training_service_pb2
from reeltune.scheduler.v1.training_service_pb2_grpc import TrainingServiceStub

from meshkit.blob import BlobStore
from meshkit.embedded import S3Server
from meshkit.testing import assert_eventually
from reeltune_cli.stack.certificates import EdgeCertificates, ensure_certificates
from tests.rpc.edge.conftest import Edge, has_keys, loopback, running_edge
from tests.rpc.edge.upstreams import FLOODING_JOB, KNOWN_JOB, PASSWORD, Upstreams

TTL = dt.timedelta(minutes=5)


@pytest.mark.parametrize("has_token", [True, False])
@pytest.mark.parametrize("path", ["/", "/nothing", "/v1/trainingsx", "/v2/trainings", "/v1/trainings/a/b/c", "/s3"])
async def test_an_unknown_path_is_a_404_in_json(edge: Edge, path: str, has_token: bool) -> None:
    answer = await edge.http.get(path, headers=edge.bearer() if has_token else {})

    assert answer.status_code == 404
    assert (answer.json()["code"], answer.json()["details"][0]["reason"]) == (5, "RPC_UNKNOWN")


async def test_a_known_path_with_another_method_is_a_404(edge: Edge) -> None:
    answer = await edge.http.delete("/v1/auth/login", headers=edge.bearer())

    assert answer.status_code == 404


@pytest.mark.parametrize("path", ["/v1/users%2fme", "/v1/trainings/..%2f..%2fusers/me"])
async def test_escaped_slashes_are_refused(edge: Edge, path: str) -> None:
    answer = await edge.http.get(path, headers=edge.bearer())

    assert answer.status_code == 400
    assert answer.json()["code"] == 3


async def test_headers_with_underscores_are_refused(edge: Edge) -> None:
    answer = await edge.http.get("/healthz", headers={"x_forwarded_user": "admin"})

    assert answer.status_code == 400


async def test_a_json_body_over_the_limit_is_a_413_in_json(edge: Edge) -> None:
    answer = await edge.http.post(
        "/v1/datasets", content=b'{"name":"' + b"x" * 6_000_000 + b'"}', headers=edge.bearer()
    )

    assert answer.status_code == 413
    assert (answer.json()["code"], answer.json()["details"][0]["reason"]) == (8, "BODY_TOO_LARGE")


async def test_a_json_body_under_the_limit_reaches_the_service(edge: Edge) -> None:
    answer = await edge.http.post("/v1/datasets", json={"name": "x" * 3_000_000}, headers=edge.bearer())

    assert answer.json()["details"][0]["reason"] == "FIELD_INVALID"


@pytest.mark.parametrize(
    "path", ["/v1/users/me", "/auth/login", "/s3/bucket/key", "/reeltune.auth.v1.UserService/GetMe"]
)
async def test_a_preflight_of_a_known_origin_is_answered_without_a_token(edge: Edge, path: str) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-grpc-web"}

    known = await edge.http.options(path, headers={"origin": "http://localhost:3000", **asked})
    foreign = await edge.http.options(path, headers={"origin": "https://evil.example", **asked})
    trick = await edge.http.options(path, headers={"origin": "http://localhost.evil.example", **asked})

    assert known.status_code == 200
    assert known.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "x-grpc-web" in known.headers["access-control-allow-headers"]
    for refused in (foreign, trick):
        assert refused.status_code == 404
        assert "access-control-allow-origin" not in refused.headers


async def test_a_page_may_send_every_header_that_has_the_store_verify_a_file(edge: Edge, blobs: BlobStore) -> None:
    put = blobs.presign_verified_put("preflight", TTL, length=3, sha256=hashlib.sha256(b"abc").hexdigest())
    origin = {"origin": "http://localhost:3000"}
    asked = {"access-control-request-method": "PUT", "access-control-request-headers": ",".join(put.headers)}

    preflight = await edge.http.options(put.url, headers={**origin, **asked})
    sent = await edge.http.put(put.url, content=b"abc", headers={**origin, **put.headers})

    assert set(put.headers) <= set(preflight.headers["access-control-allow-headers"].split(", "))
    assert "PUT" in preflight.headers["access-control-allow-methods"]
    assert (sent.status_code, sent.headers["access-control-allow-origin"]) == (200, origin["origin"])


async def test_a_page_can_read_the_error_of_a_refused_call(edge: Edge) -> None:
    answer = await edge.http.get("/v1/users/me", headers={"origin": "http://127.0.0.1:3000"})

    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == "http://127.0.0.1:3000"
    assert "grpc-status-details-bin" in answer.headers["access-control-expose-headers"]


async def test_objects_go_through_by_presigned_url_and_only_so(edge: Edge, blobs: BlobStore) -> None:
    data = os.urandom(9_000_000)  # more than any JSON body may have

    put = await edge.http.put(blobs.presign_put("clips/a b+c.mp4", TTL, length=len(data)), content=data)
    got = await edge.http.get(blobs.presign_get("clips/a b+c.mp4", TTL))
    # A file may hold a page with scripts; it comes from the origin of our own pages.
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["content-security-policy"] == "default-src 'none'; sandbox"
    part = await edge.http.get(blobs.presign_get("clips/a b+c.mp4", TTL), headers={"range": "bytes=10-19"})
    unsigned = await edge.http.get("/s3/edge-test/clips/a%20b%2Bc.mp4")
    tampered = await edge.http.get(blobs.presign_get("clips/a b+c.mp4", TTL).replace("clips", "other"))
    wrong_length = await edge.http.put(blobs.presign_put("clips/short", TTL, length=5), content=b"longer than five")
    posted = await edge.http.post("/s3/edge-test/clips/x", content=b"x")
    deleted = await edge.http.delete("/s3/edge-test/clips/a%20b%2Bc.mp4", headers=edge.bearer())

    assert put.status_code == 200
    assert hashlib.sha256(got.content).digest() == hashlib.sha256(data).digest()
    assert (part.status_code, part.content) == (206, data[10:20])
    assert [unsigned.status_code, tampered.status_code, wrong_length.status_code] == [403, 403, 403]
    assert [posted.status_code, deleted.status_code] == [404, 404]


async def test_a_multipart_upload_goes_through_part_by_part(edge: Edge, blobs: BlobStore) -> None:
    parts = [os.urandom(5 * 1024 * 1024), b"the end"]
    upload_id = await blobs.create_multipart("uploads/whole")

    etags = []
    for number, part in enumerate(parts, start=1):
        url = blobs.presign_part("uploads/whole", upload_id, number, TTL, length=len(part))
        answer = await edge.http.put(url, content=part, headers={"origin": "http://localhost:3000"})
        assert "etag" in answer.headers["access-control-expose-headers"]
        etags.append((number, answer.headers["etag"].strip('"')))
    await blobs.complete_multipart("uploads/whole", upload_id, etags)

    assert await blobs.get_bytes("uploads/whole") == b"".join(parts)


async def test_a_put_that_never_ends_is_cut(
    upstreams: Upstreams, s3_server: S3Server, blobs: BlobStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A part that trickles in keeps off every limit of silence, and what its URL writes must come to an end."""
    endpoints = {"auth": loopback(upstreams.auth.port), "s3": loopback(s3_server.port)}
    async with running_edge(tmp_path_factory.mktemp("hasty"), endpoints, upstreams.keys, put_seconds=1) as edge:
        await assert_eventually(lambda: has_keys(edge))
        url = httpx.URL(blobs.presign_put("endless", TTL, length=100_000))
        trust = ssl.create_default_context(cafile=str(edge.certificates.ca))
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port, ssl=trust, server_hostname="localhost")
        head = f"PUT {url.raw_path.decode()} HTTP/1.1\r\nhost: {url.netloc.decode()}\r\ncontent-length: 100000\r\n\r\n"
        writer.write(head.encode() + bytes(99_999))
        answer = await asyncio.wait_for(reader.readline(), 60)
        writer.close()

    assert answer.split()[1] in (b"408", b"504"), answer
    assert await blobs.list("endless") == []


async def test_the_access_log_tells_who_and_what_and_no_signature(edge: Edge, blobs: BlobStore) -> None:
    await edge.http.get(blobs.presign_get("absent", TTL))
    await edge.http.get("/v1/users/me", headers=edge.bearer(edge.keys.token("usr_logged")))

    async def is_logged() -> bool:
        log = (edge.folder / "access.log").read_text()
        return "usr_logged" in log and "/s3/edge-test/absent" in log

    await assert_eventually(is_logged)
    log = (edge.folder / "access.log").read_text()
    assert "X-Amz-Signature" not in log
    assert "eyJ" not in log


async def test_sign_ins_are_limited_by_address_and_nothing_else_is(
    upstreams: Upstreams, tmp_path_factory: pytest.TempPathFactory
) -> None:
    endpoints = {"auth": loopback(upstreams.auth.port)}
    folder = tmp_path_factory.mktemp("limited")
    async with running_edge(folder, endpoints, upstreams.keys, sign_ins_per_minute=3) as edge:
        await assert_eventually(lambda: has_keys(edge))
        body = {"username": "bob", "password": PASSWORD}
        paths = ["/auth/login", "/v1/auth/login", "/auth/login", "/auth/login", "/v1/auth/login"]
        answers = [await edge.http.post(path, json=body) for path in paths]
        by_web = await edge.web.call("reeltune/auth/v1/auth_service_pb", "AuthService/Login", body)
        others = [await edge.http.get("/v1/users/me", headers=edge.bearer()) for _ in range(10)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    refused = answers[-1].json()
    assert (refused["code"], refused["details"][0]["reason"]) == (8, "RATE_LIMITED")
    assert {other.status_code for other in others} == {200}
    assert by_web.code in (0, 8)


async def test_healthz_says_whether_all_services_are_there(
    upstreams: Upstreams, tmp_path_factory: pytest.TempPathFactory
) -> None:
    port = upstreams.catalog.port
    endpoints = {
        "auth": loopback(upstreams.auth.port),
        "catalog": loopback(port),
        "scheduler": loopback(1),
        "trainer": loopback(upstreams.trainers[0].port),
    }
    async with running_edge(tmp_path_factory.mktemp("sick"), endpoints, upstreams.keys) as edge:
        await assert_eventually(lambda: has_keys(edge))
        health = await edge.http.get("/healthz")
        by_json = await edge.http.get("/v1/trainings", headers=edge.bearer())
        by_web = await edge.web.call(
            "reeltune/scheduler/v1/training_service_pb", "TrainingService/ListTrainingJobs", token=edge.keys.token()
        )
        other = await edge.http.post("/v1/datasets", json={"name": "n"}, headers=edge.bearer())

    assert health.status_code == 503
    assert health.json()["code"] == 14
    assert (by_json.status_code, by_json.json()["details"][0]["reason"]) == (503, "SERVICE_UNAVAILABLE")
    assert (by_web.code, by_web.reason) == (14, "SERVICE_UNAVAILABLE")
    assert other.status_code == 200


async def test_the_edge_speaks_h2_and_http_1_with_a_certificate_of_its_own_authority(edge: Edge) -> None:
    curl = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--http2", "--cacert", str(edge.certificates.ca), "-o", os.devnull,
        "-w", "%{http_version} %{http_code}", f"https://localhost:{edge.port}/healthz",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(curl.communicate(), 60)
    assert said == b"2 200"

    assert (await edge.http.get("/healthz")).http_version == "HTTP/1.1"
    async with httpx.AsyncClient(trust_env=False) as stranger:
        with pytest.raises(httpx.ConnectError):
            await stranger.get(f"{edge.url}/healthz")


def test_certificates_are_made_once_with_keys_for_their_owner_only(tmp_path: Path) -> None:
    first = ensure_certificates(tmp_path / "tls")
    made = contents(first)
    again = ensure_certificates(tmp_path / "tls")
    more_names = ensure_certificates(tmp_path / "tls", ("localhost", "trainer.example"))

    assert contents(again)[:1] == made[:1]
    assert first.ca.read_bytes() == made[0], "a new name must not cost the clients their trust"
    assert contents(more_names)[1] != made[1]
    for key in (first.key, tmp_path / "tls" / "ca.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def contents(files: EdgeCertificates) -> list[bytes]:
    return [path.read_bytes() for path in (files.ca, files.certificate, files.key)]


async def test_readers_that_do_not_read_hold_up_nobody_else(edge: Edge, upstreams: Upstreams) -> None:
    """What the edge keeps for them is bounded for each, and never uses up what it shares with others."""
    metadata = tuple(edge.bearer().items())
    credentials = grpc.ssl_channel_credentials(edge.certificates.ca.read_bytes())
    async with contextlib.AsyncExitStack() as stack:

        async def stub(number: int) -> TrainingServiceStub:
            options = [("grpc.use_local_subchannel_pool", 1), ("test.channel", number)]
            channel = grpc.aio.secure_channel(f"localhost:{edge.port}", credentials, options=options)
            return TrainingServiceStub(await stack.enter_async_context(channel))

        stubs = [await stub(number) for number in range(8)]
        request = training_history_pb2.WatchTrainingJobRequest(job_id=FLOODING_JOB)
        for number in range(40):
            flood = stubs[number % 4].WatchTrainingJob(request, metadata=metadata)
            stack.callback(flood.cancel)
            await asyncio.wait_for(flood.read(), 60)
        sent = -1

        async def is_held_back() -> bool:
            nonlocal sent
            before, sent = sent, upstreams.training.flood_bytes
            await asyncio.sleep(0.3)
            return before == sent

        await assert_eventually(is_held_back)
        wanted = training_service_pb2.GetTrainingJobRequest(job_id=KNOWN_JOB)
        for each in stubs:
            answer = await each.GetTrainingJob(wanted, metadata=metadata, timeout=60)
            assert answer.job.id == KNOWN_JOB
