from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import grpc
import pytest

from meshkit.auth.principal import Caller
from meshkit.ids import new_id
from meshkit.rpc.status import failure_from_rpc_error
from meshkit.testing import TokenMint
from reeltune_cli.client import Client, ClientError, download, upload
from reeltune_cli.client.download import download_artifact, stream_artifact
from reeltune_cli.client.upload import upload_folder
from tests.rpc.cli.failing_mesh import JOB_ID, PART_BYTES, FailingMesh

DATASET_ID = new_id("ds")


class Recorder:
    """Adds up what a transfer tells."""

    def __init__(self) -> None:
        self.total = 0
        self.moved = 0
        self.ended: list[str] = []

    def begin(self, files: int, size_bytes: int) -> None:
        self.total = size_bytes

    def begin_file(self, path: str, size_bytes: int) -> None:
        pass

    def advance(self, path: str, size_bytes: int) -> None:
        self.moved += size_bytes

    def end_file(self, path: str) -> None:
        self.ended.append(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    (folder / "clips").mkdir(parents=True)
    (folder / "rows.csv").write_text("video,caption\n")
    (folder / "empty.txt").touch()
    (folder / ".hidden").write_text("not sent")
    for n in range(6):
        (folder / "clips" / f"{n}.mp4").write_bytes(os.urandom(PART_BYTES * 2 + n))
    return folder


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("reeltune_cli.client.download._FIRST_PAUSE_SECONDS", 0.01)


def content_of(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


async def test_a_folder_arrives_whole(client: Client, failing_mesh: FailingMesh, folder: Path) -> None:
    recorder = Recorder()
    summary = await upload_folder(client, DATASET_ID, folder, recorder)
    assert failing_mesh.files == content_of(folder)
    assert summary.files == 8
    assert recorder.moved == recorder.total == summary.size_bytes
    assert sorted(recorder.ended) == sorted(failing_mesh.files)


async def test_failed_parts_are_sent_again(client: Client, failing_mesh: FailingMesh, folder: Path) -> None:
    failing_mesh.put_failures += [503, 403, 500]
    recorder = Recorder()
    await upload_folder(client, DATASET_ID, folder, recorder)
    assert failing_mesh.files == content_of(folder)
    assert recorder.moved == recorder.total


async def test_headers_of_parts_are_sent_and_what_is_there_already_counts_as_arrived(
    client: Client, failing_mesh: FailingMesh, folder: Path
) -> None:
    failing_mesh.is_verifying, failing_mesh.lost_puts = True, 3
    recorder = Recorder()
    await upload_folder(client, DATASET_ID, folder, recorder)
    assert failing_mesh.files == content_of(folder)
    assert recorder.moved == recorder.total


async def test_a_store_that_refuses_a_file_that_nobody_changed_is_told(
    client: Client, failing_mesh: FailingMesh, folder: Path
) -> None:
    failing_mesh.is_verifying, failing_mesh.put_failures = True, [400] * 1000
    with pytest.raises(ClientError) as caught:
        await upload_folder(client, DATASET_ID, folder)
    assert (caught.value.reason, "400" in caught.value.message) == ("UPLOAD_FAILED", True)


async def test_a_file_that_was_changed_after_it_was_read_arrives_as_it_is(
    client: Client, failing_mesh: FailingMesh, folder: Path
) -> None:
    failing_mesh.is_verifying = True
    rows = folder / "rows.csv"
    before, after = rows.read_text(), "clip,caption\nclips/0.mp4,more\n"
    failing_mesh.meanwhile = [lambda: rows.write_text(after)]
    await upload_folder(client, DATASET_ID, folder)
    assert failing_mesh.files == content_of(folder)
    assert failing_mesh.files["rows.csv"].decode() == after != before


async def test_a_file_that_changes_all_the_time_is_told(
    client: Client, failing_mesh: FailingMesh, tmp_path: Path
) -> None:
    failing_mesh.is_verifying = True
    file = tmp_path / "rows.csv"
    file.write_text("0")
    failing_mesh.meanwhile = [lambda digit=digit: file.write_text(digit) for digit in "123456789"]
    with pytest.raises(ClientError) as caught:
        await upload_folder(client, DATASET_ID, tmp_path)
    assert caught.value.reason == "FILE_CHANGED"
    assert failing_mesh.files == {}


async def test_an_upload_that_ended_while_it_was_sent_is_completed_by_its_newest_name(
    client: Client, failing_mesh: FailingMesh, tmp_path: Path
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"0" * 10)
    failing_mesh.is_forgetful, failing_mesh.put_failures = True, [403]
    await upload_folder(client, DATASET_ID, tmp_path)
    assert failing_mesh.files == content_of(tmp_path)
    assert len(failing_mesh.puts) == 1


@pytest.mark.parametrize("reason", ["UPLOAD_INCOMPLETE", "UPLOAD_NOT_FOUND"])
async def test_what_is_lost_before_it_is_completed_is_sent_once_more(
    client: Client, failing_mesh: FailingMesh, tmp_path: Path, reason: str
) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(name.encode() * PART_BYTES)
    recorder = Recorder()
    failing_mesh.lost_uploads = [reason]
    await upload_folder(client, DATASET_ID, tmp_path, recorder)
    assert failing_mesh.files == content_of(tmp_path)
    assert recorder.moved == recorder.total
    (tmp_path / "b.mp4").write_bytes(b"another")
    failing_mesh.lost_uploads = [reason] * 9
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await upload_folder(client, DATASET_ID, tmp_path)
    assert failure_from_rpc_error(caught.value).reason == reason


async def test_a_batch_that_takes_too_long_is_completed_file_by_file(
    client: Client, failing_mesh: FailingMesh, folder: Path
) -> None:
    failing_mesh.late_batches = 1
    await upload_folder(client, DATASET_ID, folder)
    assert failing_mesh.files == content_of(folder)
    assert failing_mesh.late_batches == 0


async def test_small_files_share_their_calls_and_large_ones_do_not(
    client: Client, failing_mesh: FailingMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "_SMALL_BYTES", 10)
    monkeypatch.setattr(upload, "_BATCH_FILES", 16)
    for number in range(40):
        (tmp_path / f"{number:02}.mp4").write_bytes(b"0" * (11 if number == 20 else 10))
    await upload_folder(client, DATASET_ID, tmp_path)
    assert failing_mesh.files == content_of(tmp_path)
    assert sorted(failing_mesh.batches) == [3, 4, 8, 8, 16]


@pytest.mark.parametrize(("megabytes", "largest_batch"), [(1, 32), (2, 32), (4, 16), (8, 8)])
def test_a_slow_link_can_send_in_time_what_is_announced_ahead(megabytes: int, largest_batch: int) -> None:
    files = [upload.LocalFile(Path("clip"), f"{number}", megabytes << 20) for number in range(100)]
    batches = upload._batches(files)
    assert [file for batch in batches for file in batch] == files
    assert max(len(batch) for batch in batches) == largest_batch


async def test_an_address_that_ends_soon_is_renewed_before_it_is_used(
    client: Client, failing_mesh: FailingMesh, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow link its turn comes late, and what the store refuses would have been sent for nothing."""
    monkeypatch.setattr(upload, "_RENEW_AFTER_SECONDS", 0)
    failing_mesh.first_offers_end = True
    recorder = Recorder()
    await upload_folder(client, DATASET_ID, folder, recorder)
    assert failing_mesh.files == content_of(folder)
    assert recorder.moved == recorder.total
    assert failing_mesh.late_puts == 0
    assert sorted(failing_mesh.offers) == sorted(2 * list(failing_mesh.files)), "parts share their file's new offer"


async def test_a_clock_that_is_wrong_has_no_new_offer_renewed(
    client: Client, failing_mesh: FailingMesh, folder: Path
) -> None:
    failing_mesh.lifetime_seconds = -3600
    await upload_folder(client, DATASET_ID, folder)
    assert failing_mesh.files == content_of(folder)
    assert sorted(failing_mesh.offers) == sorted(failing_mesh.files)


async def test_a_renewed_file_may_have_arrived(
    client: Client, failing_mesh: FailingMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "_RENEW_AFTER_SECONDS", 0)
    (tmp_path / "a.mp4").write_bytes(b"0" * 10)
    failing_mesh.first_offers_end = True
    failing_mesh.meanwhile = [lambda: failing_mesh.files.update({"a.mp4": b"0" * 10})]
    recorder = Recorder()
    await upload_folder(client, DATASET_ID, tmp_path, recorder)
    assert failing_mesh.puts == []
    assert recorder.moved == recorder.total


async def test_a_store_that_stays_away_is_told(client: Client, failing_mesh: FailingMesh, folder: Path) -> None:
    failing_mesh.put_failures += [503] * 1000
    with pytest.raises(ClientError) as caught:
        await upload_folder(client, DATASET_ID, folder)
    assert caught.value.reason == "UPLOAD_FAILED"
    assert "503" in caught.value.message
    failing_mesh.put_failures.clear()
    await upload_folder(client, DATASET_ID, folder)
    assert failing_mesh.files == content_of(folder)


async def test_the_same_folder_again_sends_nothing_and_a_mended_one_what_changed(
    client: Client, failing_mesh: FailingMesh, folder: Path
) -> None:
    await upload_folder(client, DATASET_ID, folder)
    failing_mesh.blobs.clear()
    await upload_folder(client, DATASET_ID, folder)
    assert failing_mesh.blobs == {}
    (folder / "clips" / "0.mp4").unlink()
    (folder / "clips" / "5.mp4").unlink()
    (folder / "rows.csv").write_text("video,caption\nclips/1.mp4,x\n")
    summary = await upload_folder(client, DATASET_ID, folder)
    assert sorted(summary.removed) == failing_mesh.deleted == ["clips/0.mp4", "clips/5.mp4"]
    assert failing_mesh.files == content_of(folder)
    assert len(failing_mesh.blobs) == 1


_UPLOAD = """
import asyncio, sys, time
from pathlib import Path
from reeltune_cli.client import Client, Endpoint
from reeltune_cli.client.credentials import Credentials, MemoryCredentials
from reeltune_cli.client.upload import upload_folder

async def main(address, token, dataset_id, folder):
    credentials = MemoryCredentials()
    credentials.save(Credentials("ada", token, time.time() + 240, "", 0))
    async with Client(Endpoint(address, plaintext=True), credentials) as client:
        await upload_folder(client, dataset_id, Path(folder))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_an_upload_that_was_killed_goes_on_where_it_was(
    client: Client, failing_mesh: FailingMesh, folder: Path, token_mint: TokenMint
) -> None:
    failing_mesh.hold_after = 7
    token = token_mint.token(Caller.USER, "usr_1", roles=("user",))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _UPLOAD, failing_mesh.served.address, token, DATASET_ID, str(folder)
    )
    try:
        assert await asyncio.to_thread(failing_mesh.held.wait, 60)
    finally:
        process.kill()
        await process.wait()
        failing_mesh.let_go.set()
    failing_mesh.hold_after = None
    assert len(failing_mesh.blobs) == 7
    sent = {path for path, data in failing_mesh.blobs.items() if data}  # nothing of an empty file can have arrived
    failing_mesh.puts.clear()
    recorder = Recorder()
    await upload_folder(client, DATASET_ID, folder, recorder)
    assert failing_mesh.files == content_of(folder)
    assert sent.isdisjoint(failing_mesh.puts)
    assert recorder.moved == recorder.total


async def test_a_refused_file_ends_the_upload_with_the_services_reason(
    client: Client, failing_mesh: FailingMesh, folder: Path
) -> None:
    failing_mesh.refused_paths.add("clips/3.mp4")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await upload_folder(client, DATASET_ID, folder)
    assert failure_from_rpc_error(caught.value).reason == "FILE_NOT_ALLOWED"


async def test_an_empty_folder_is_refused(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ClientError) as caught:
        await upload_folder(client, DATASET_ID, tmp_path)
    assert caught.value.reason == "FOLDER_EMPTY"


@pytest.fixture
def artifact(failing_mesh: FailingMesh) -> dict[str, bytes]:
    failing_mesh.artifact_files = {
        "adapter_config.json": b"{}",
        "adapter_model.safetensors": os.urandom(3 * PART_BYTES + 7),
        "logs/train.txt": b"",
    }
    return failing_mesh.artifact_files


@pytest.mark.parametrize("fetch", [download_artifact, stream_artifact])
async def test_an_artifact_arrives_whole(
    client: Client, artifact: dict[str, bytes], tmp_path: Path, fetch: type
) -> None:
    recorder = Recorder()
    await fetch(client, JOB_ID, tmp_path / "out", recorder)
    assert content_of(tmp_path / "out") == artifact
    assert recorder.moved == recorder.total
    assert not list((tmp_path / "out").rglob("*.partial"))


async def test_failed_downloads_are_tried_again(
    client: Client, failing_mesh: FailingMesh, artifact: dict[str, bytes], tmp_path: Path
) -> None:
    failing_mesh.get_failures += [503, 403, 500]
    await download_artifact(client, JOB_ID, tmp_path)
    assert content_of(tmp_path) == artifact


async def test_the_last_failed_download_is_told_at_once(
    client: Client,
    failing_mesh: FailingMesh,
    artifact: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(download, "_FIRST_PAUSE_SECONDS", 0.01)
    failing_mesh.get_failures += [503] * 4
    with pytest.raises(ClientError) as caught:
        await download_artifact(client, JOB_ID, tmp_path)
    assert caught.value.reason == "DOWNLOAD_FAILED"
    assert (failing_mesh.get_failures, failing_mesh.artifact_calls) == ([], 4)


async def test_damaged_bytes_never_take_the_files_place(
    client: Client, failing_mesh: FailingMesh, artifact: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text("the old one")
    for damaged in (b"[]", b"{", b"{}{}"):
        failing_mesh.get_failures.append(damaged)
        with pytest.raises(ClientError) as caught:
            await download_artifact(client, JOB_ID, tmp_path)
        assert caught.value.reason == "DIGEST_MISMATCH"
        assert content_of(tmp_path) == {"adapter_config.json": b"the old one"}
        assert not list(tmp_path.glob(".*"))


async def test_a_cut_stream_is_no_download(
    client: Client, failing_mesh: FailingMesh, artifact: dict[str, bytes], tmp_path: Path
) -> None:
    failing_mesh.stream_is_cut = True
    with pytest.raises(ClientError) as caught:
        await stream_artifact(client, JOB_ID, tmp_path)
    assert caught.value.reason == "DOWNLOAD_FAILED"
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "a\\b", ""])
async def test_no_file_leaves_the_folder(client: Client, failing_mesh: FailingMesh, tmp_path: Path, path: str) -> None:
    failing_mesh.artifact_files = {path: b"x"}
    for fetch in (download_artifact, stream_artifact):
        with pytest.raises(ClientError) as caught:
            await fetch(client, JOB_ID, tmp_path / "out")
        assert caught.value.reason == "PATH_INVALID"
    assert list(tmp_path.rglob("*")) == []
