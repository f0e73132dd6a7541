"""Imports from web addresses, hubs and folders: what comes, what is given up and why, and that it happens once."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import cast

import grpc
import pytest
import pytest_asyncio
from reeltune.catalog.v1 import dataset_pb2, model_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds
from reeltune.catalog.v1 import import_pb2 as pb
from reeltune.catalog.v1 import import_service_pb2 as im

from catalog_svc.clients.sources.source import Source
from catalog_svc.domain.imports import Import, ImportItem, ImportState
from catalog_svc.domain.unforeseen import MAX_FAILURES
from catalog_svc.store.import_store import ImportStore
from catalog_svc.usecases.fetch_file import FetchFile
from catalog_svc.usecases.run_import import RunImport
from catalog_svc.usecases.run_imports import RunImports
from meshkit.testing import assert_eventually
from tests.rpc.catalog.catalog_mesh import CatalogMesh, Start, collected, model_files, refused
from tests.rpc.catalog.clips import h264_clip
from tests.rpc.catalog.web_source import WebSource, web_source

COMMIT = "0123456789abcdef0123456789abcdef01234567"
COMPLETED, FAILED = pb.IMPORT_STATE_COMPLETED, pb.IMPORT_STATE_FAILED


@pytest_asyncio.fixture(loop_scope="session")
async def web() -> AsyncIterator[WebSource]:
    async with web_source() as source:
        yield source


@pytest_asyncio.fixture(loop_scope="session")
async def open_mesh(start: Start, web: WebSource, tmp_path: Path) -> CatalogMesh:
    """A service to which the web source is tolerable, and which allows a hub and a folder."""
    (tmp_path / "allowed").mkdir()
    return await start(
        import_test_hosts=web.host,
        import_hub_url=web.url(""),
        import_folders=str(tmp_path / "allowed"),
        import_lease_seconds=3,
        import_tries=3,
    )


async def test_a_file_from_an_address(open_mesh: CatalogMesh, web: WebSource) -> None:
    web.files["/clips/a%20b.mp4"] = web.files["/clips/a b.mp4"] = h264_clip()
    dataset = await open_mesh.create_dataset()
    done = await open_mesh.imported(dataset.id, url=pb.UrlSource(url=web.url("/clips/a%20b.mp4?signature=secret")))
    assert done.state == COMPLETED
    assert (done.counts.files, done.counts.files_done, done.counts.bytes_done) == (1, 1, len(h264_clip()))
    assert "secret" not in str(done)
    assert await open_mesh.paths(dataset.id) == ["a_b.mp4"]


@pytest.mark.parametrize("form", ["columns", "parts", "sharegpt"])
async def test_rows_that_name_addresses_are_bound_to_the_fetched_clips(
    open_mesh: CatalogMesh, web: WebSource, form: str
) -> None:
    web.files |= {f"/{number}/clip.mp4": h264_clip(number) for number in range(3)}
    urls = [web.url(f"/{number}/clip.mp4") for number in range(3)]
    answer = "see https://example.com/not-a-clip.mp4"
    if form == "columns":
        name, rows = "a.csv", "video,caption\n" + "".join(f'{url},"{answer}"\n' for url in urls)
    elif form == "parts":
        texts = [
            {
                "messages": [
                    {"role": "user", "content": [{"type": "video", "url": url}, {"type": "text", "text": "What?"}]},
                    {"role": "assistant", "content": [{"type": "text", "text": answer}]},
                ]
            }
            for url in urls
        ]
        name, rows = "a.jsonl", "\n".join(map(json.dumps, texts))
    else:
        turns = [{"from": "human", "value": "<video>What?"}, {"from": "gpt", "value": answer}]
        name, rows = "a.json", json.dumps([{"conversations": turns, "videos": [url]} for url in urls])
    web.files[f"/{name}"] = rows.encode()
    dataset = await open_mesh.create_dataset()
    done = await open_mesh.imported(dataset.id, annotations=pb.AnnotationSource(url=web.url(f"/{name}")))
    assert done.state == COMPLETED, await open_mesh.import_errors(done.id)
    assert (done.counts.files, done.counts.files_done) == (4, 4)
    ready = await open_mesh.validated(dataset.id)
    assert ready.state == dataset_pb2.DATASET_STATE_READY, await open_mesh.issues(dataset.id)
    assert (ready.counts.clips, ready.counts.rows, ready.counts.warnings) == (3, 3, 0)


async def test_an_annotation_file_that_was_uploaded_names_addresses(open_mesh: CatalogMesh, web: WebSource) -> None:
    web.files["/a.mp4"] = h264_clip()
    dataset = await open_mesh.create_dataset()
    rows = f"video,caption\n{web.url('/a.mp4')},A bar.\n{web.url('/gone.mp4')},None.\nplain.mp4,A path.\n"
    await open_mesh.put(dataset.id, "annotations.csv", rows.encode())
    await open_mesh.put(dataset.id, "plain.mp4", h264_clip(2))
    done = await open_mesh.imported(dataset.id, annotations=pb.AnnotationSource(file="annotations.csv"))
    assert (done.state, done.error_reason) == (FAILED, "FILES_FAILED")
    assert list((await open_mesh.import_errors(done.id)).values()) == ["SOURCE_NOT_FOUND"]
    found = await open_mesh.validated(dataset.id)
    assert found.state == dataset_pb2.DATASET_STATE_ERROR
    assert await open_mesh.issues(dataset.id) == [("CLIP_REMOTE", "annotations.csv", 2)]


async def test_what_passes_is_tried_again_and_what_does_not_is_told(open_mesh: CatalogMesh, web: WebSource) -> None:
    web.files |= {"/a.mp4": h264_clip(), "/b.mp4": h264_clip(1)}
    web.failures = {"/a.mp4": [503, 429], "/b.mp4": [500] * 9}
    rows = "".join(f"{url},x\n" for url in (web.url("/a.mp4"), web.url("/b.mp4"), "https://10.0.0.1/c.mp4"))
    dataset = await open_mesh.create_dataset()
    await open_mesh.put(dataset.id, "annotations.csv", f"video,caption\n{rows}".encode())
    done = await open_mesh.imported(dataset.id, annotations=pb.AnnotationSource(file="annotations.csv"))
    assert (done.counts.files_done, done.counts.files_failed) == (1, 2)
    reasons = sorted((await open_mesh.import_errors(done.id)).values())
    assert reasons == ["ADDRESS_NOT_PUBLIC", "SOURCE_UNAVAILABLE"]
    assert web.requests.count("/a.mp4") == web.requests.count("/b.mp4") == 3


async def test_nothing_private_is_asked_for(mesh: CatalogMesh, web: WebSource) -> None:
    dataset = await mesh.create_dataset()
    for url in (web.url("/a.mp4"), f"https://{web.host}/a.mp4", "https://localhost/a", "https://169.254.169.254/a"):
        begin = mesh.begin_import(dataset.id, url=pb.UrlSource(url=url))
        if "localhost" in url:  # a name is looked up when it is fetched
            done = await mesh.ended_import((await begin).id)
            assert list((await mesh.import_errors(done.id)).values()) == ["ADDRESS_NOT_PUBLIC"]
            continue
        failure = await refused(begin)
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SOURCE_REFUSED")
        assert failure.metadata["cause"] in ("URL_NOT_HTTPS", "ADDRESS_NOT_PUBLIC")
    assert web.requests == []


async def test_the_same_request_begins_one_import(open_mesh: CatalogMesh, web: WebSource) -> None:
    web.files["/a.mp4"] = h264_clip()
    dataset = await open_mesh.create_dataset()
    request = im.CreateImportRequest(
        parent_id=dataset.id,
        source=pb.ImportSource(url=pb.UrlSource(url=web.url("/a.mp4"))),
        request_id=str(uuid.uuid4()),
    )
    alice = open_mesh.as_user()
    answers = await asyncio.gather(*(open_mesh.imports.CreateImport(request, metadata=alice) for _ in range(10)))
    assert len({answer.data_import.id for answer in answers}) == 1
    await open_mesh.ended_import(answers[0].data_import.id)
    assert web.requests == ["/a.mp4"]
    request.source.url.url = web.url("/b.mp4")
    failure = await refused(open_mesh.imports.CreateImport(request, metadata=alice))
    assert failure.reason == "REQUEST_ID_REUSED"
    listed = await open_mesh.imports.ListImports(im.ListImportsRequest(parent_id=dataset.id), metadata=alice)
    assert [one.id for one in listed.imports] == [answers[0].data_import.id]


async def test_a_running_import_is_cancelled_and_until_then_nothing_is_validated(
    open_mesh: CatalogMesh, web: WebSource
) -> None:
    web.files["/slow.mp4"] = h264_clip()
    web.gates["/slow.mp4"] = asyncio.Event()
    dataset = await open_mesh.create_dataset()
    begun = await open_mesh.begin_import(dataset.id, url=pb.UrlSource(url=web.url("/slow.mp4")))
    await assert_eventually(lambda: "/slow.mp4" in web.requests)
    alice = open_mesh.as_user()
    validate = ds.ValidateDatasetRequest(dataset_id=dataset.id)
    assert (await refused(open_mesh.datasets.ValidateDataset(validate, metadata=alice))).reason == "IMPORT_RUNNING"
    cancelled = await open_mesh.imports.CancelImport(im.CancelImportRequest(import_id=begun.id), metadata=alice)
    assert cancelled.data_import.state == pb.IMPORT_STATE_CANCELLED
    again = await open_mesh.imports.CancelImport(im.CancelImportRequest(import_id=begun.id), metadata=alice)
    assert again.data_import.state == pb.IMPORT_STATE_CANCELLED
    web.gates["/slow.mp4"].set()
    await open_mesh.datasets.ValidateDataset(validate, metadata=alice)


async def test_an_import_that_is_cut_goes_on_where_it_was(start: Start, web: WebSource) -> None:
    web.files |= {f"/{number}.mp4": h264_clip(number) for number in range(6)}
    rows = "".join(f"{web.url(path)},x\n" for path in web.files)
    web.gates["/5.mp4"] = asyncio.Event()
    settings = {"import_test_hosts": web.host, "import_lease_seconds": 2, "import_fetches": 2}
    first = await start(**settings)
    dataset = await first.create_dataset()
    await first.put(dataset.id, "annotations.csv", f"video,caption\n{rows}".encode())
    begun = await first.begin_import(dataset.id, annotations=pb.AnnotationSource(file="annotations.csv"))

    async def is_half_done() -> bool:
        return bool(await first.pool.fetchval("SELECT files_done FROM imports WHERE id = $1", begun.id) == 5)

    await assert_eventually(is_half_done)
    await first.services.aclose()
    web.gates["/5.mp4"].set()
    second = await start(**settings)
    done = await second.ended_import(begun.id)
    assert (done.state, done.counts.files_done) == (COMPLETED, 6)
    assert sorted(web.requests) == sorted([*web.files, "/5.mp4"])


async def test_a_model_comes_from_the_hub_without_what_is_not_allowed(open_mesh: CatalogMesh, web: WebSource) -> None:
    files = {**model_files(), "pytorch_model.bin": b"pickle", ".gitattributes": b"x", "README.md": b"# base"}
    web.add_hub_repository("models", "org/base", COMMIT, files)
    model = await open_mesh.create_model()
    done = await open_mesh.imported(model.id, hub=pb.HubSource(repository="org/base"))
    assert (done.state, done.commit) == (COMPLETED, COMMIT), await open_mesh.import_errors(done.id)
    assert await open_mesh.paths(model.id) == sorted([*model_files(), "README.md"])
    assert not any(path.endswith((".bin", ".gitattributes")) for path in web.requests)
    assert (await open_mesh.validated_model(model.id)).state == model_pb2.MODEL_STATE_READY


async def test_a_repository_with_code_is_refused_before_a_byte_is_fetched(
    open_mesh: CatalogMesh, web: WebSource
) -> None:
    web.add_hub_repository("models", "org/code", COMMIT, {**model_files(), "modeling.py": b"import os"})
    model = await open_mesh.create_model()
    done = await open_mesh.imported(model.id, hub=pb.HubSource(repository="org/code", revision="main"))
    assert (done.state, done.error_reason) == (FAILED, "FILE_NOT_ALLOWED")
    assert not any("/resolve/" in path or "/cdn/" in path for path in web.requests)


async def test_bytes_that_are_not_those_of_the_hubs_list_are_not_taken(open_mesh: CatalogMesh, web: WebSource) -> None:
    web.add_hub_repository("datasets", "org/clips", COMMIT, {"a.mp4": h264_clip(), "README.md": b"x"})
    web.files[f"/cdn/{COMMIT}/a.mp4"] = h264_clip(1)
    dataset = await open_mesh.create_dataset()
    done = await open_mesh.imported(dataset.id, hub=pb.HubSource(repository="org/clips"))
    assert await open_mesh.import_errors(done.id) == {"a.mp4": "DIGEST_MISMATCH"}
    assert await open_mesh.paths(dataset.id) == []


async def test_a_folder_gives_its_plain_files_and_no_link_leads_out(open_mesh: CatalogMesh, tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "allowed" / "set"
    (folder / "clips").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.mp4").write_bytes(b"secret")
    (folder / "clips" / "a.mp4").write_bytes(h264_clip())
    (folder / "annotations.csv").write_text("video,caption\nclips/a.mp4,A bar.\n")
    (folder / "link.mp4").symlink_to(outside / "secret.mp4")
    (folder / "linked").symlink_to(outside)
    os.mkfifo(folder / "pipe.mp4")
    dataset = await open_mesh.create_dataset()
    done = await open_mesh.imported(dataset.id, folder=pb.FolderSource(path=str(folder)))
    assert await open_mesh.paths(dataset.id) == ["annotations.csv", "clips/a.mp4"]
    assert await open_mesh.import_errors(done.id) == {"link.mp4": "FILE_NOT_REGULAR", "pipe.mp4": "FILE_NOT_REGULAR"}
    for path in (str(outside), f"{folder}/../../outside", "/etc", str(tmp_path)):
        failure = await refused(open_mesh.begin_import(dataset.id, folder=pb.FolderSource(path=path)))
        assert failure.metadata["cause"] == "FOLDER_NOT_ALLOWED"
    done = await open_mesh.imported(dataset.id, folder=pb.FolderSource(path=str(folder / "linked")))
    assert done.error_reason == "FILE_NOT_REGULAR"


async def test_hubs_and_folders_are_off_until_the_operator_allows_them(mesh: CatalogMesh) -> None:
    model = await mesh.create_model()
    for source in ({"hub": pb.HubSource(repository="org/base")}, {"folder": pb.FolderSource(path="/srv/clips")}):
        assert (await refused(mesh.begin_import(model.id, **source))).reason == "SOURCE_NOT_ENABLED"


async def test_what_can_be_seen_to_be_wrong_is_refused_at_once(open_mesh: CatalogMesh) -> None:
    model, dataset = await open_mesh.create_model(), await open_mesh.create_dataset()
    wrong = [
        (model.id, {"url": pb.UrlSource(url="https://example.com/model.bin")}, "FILE_NOT_ALLOWED"),
        (model.id, {"annotations": pb.AnnotationSource(file="a.csv")}, "FIELD_INVALID"),
        (dataset.id, {"url": pb.UrlSource(url="https://example.com/a", path="../a")}, "FIELD_INVALID"),
        (dataset.id, {"bucket": pb.BucketSource(uri="s3://UPPER/x")}, "FIELD_INVALID"),
        (dataset.id, {"bucket": pb.BucketSource(uri="s3://bucket", mode=pb.IMPORT_MODE_REFERENCE)}, "FIELD_INVALID"),
        (dataset.id, {}, "FIELD_INVALID"),
    ]
    for parent, source, reason in wrong:
        assert (await refused(open_mesh.begin_import(parent, **source))).reason == reason, source


async def test_a_watch_begins_with_the_import_as_it_is(open_mesh: CatalogMesh, web: WebSource) -> None:
    web.files["/a.mp4"] = h264_clip()
    dataset = await open_mesh.create_dataset()
    done = await open_mesh.imported(dataset.id, url=pb.UrlSource(url=web.url("/a.mp4")))
    request = im.WatchImportRequest(import_id=done.id)
    messages = await collected(open_mesh.imports.WatchImport(request, metadata=open_mesh.as_user(), timeout=60))
    assert [message.data_import for message in messages] == [done]


async def test_an_error_of_our_own_ends_an_import_after_some_tries_and_it_can_be_started_again(
    start: Start, web: WebSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = await start(import_test_hosts=web.host, import_pause_seconds=0.01)
    web.files |= {f"/{number}.mp4": h264_clip(number) for number in range(3)}
    dataset = await mesh.create_dataset()
    rows = "".join(f"{web.url(f'/{number}.mp4')},A bar.\n" for number in range(3))
    await mesh.put(dataset.id, "annotations.csv", f"video,caption\n{rows}".encode())
    whole, tries = FetchFile.fetch, []

    async def spoiled(self: FetchFile, found: Import, source: Source, item: ImportItem) -> int:
        if item.location.endswith("/1.mp4"):
            tries.append(item.path)
            raise KeyError("a bug of ours")
        return await whole(self, found, source, item)

    monkeypatch.setattr(FetchFile, "fetch", spoiled)
    failed = await mesh.imported(dataset.id, annotations=pb.AnnotationSource(file="annotations.csv"))
    monkeypatch.undo()
    again = await mesh.imported(dataset.id, annotations=pb.AnnotationSource(file="annotations.csv"))

    assert (failed.state, failed.error_reason) == (FAILED, "INTERNAL")
    # The two good files may come after a first failure, and each is progress.
    assert MAX_FAILURES <= len(tries) <= MAX_FAILURES + 2
    assert "start it again" in failed.error_message
    assert "bug of ours" not in str(failed), "the log is for the operator"
    assert again.state == COMPLETED, again


async def test_an_import_that_kills_its_importers_is_not_taken_up_for_ever(start: Start, web: WebSource) -> None:
    mesh = await start(import_test_hosts=web.host, import_lease_seconds=0.2)
    imports, begun = await waiting_import(mesh, web)

    async def claimed() -> Import | None:
        """By an importer that dies at once: the lease is never given back."""
        return await imports.claim(str(uuid.uuid4()))

    taken = [await assert_eventually(claimed) for _ in range(MAX_FAILURES + 1)]

    assert {found.id for found in taken} == {begun}
    # The service may have lost its short lease, too, before it was stopped.
    first = taken[0].failures
    assert [found.failures - first for found in taken] == list(range(MAX_FAILURES + 1)), "the last one gives it up"


async def test_failures_count_from_the_last_progress_and_giving_up_that_fails_pauses(
    start: Start, web: WebSource
) -> None:
    imports, _ = await waiting_import(await start(import_test_hosts=web.host, import_lease_seconds=1), web)

    async def failed(*, gets: str = "") -> int:
        """Fails once, after a file was got, if one is named; returns the failures before."""
        token = str(uuid.uuid4())
        found = await assert_eventually(lambda: imports.claim(token))
        assert found is not None
        if gets:
            await imports.add_items(found.id, token, [ImportItem(gets, web.url(f"/{gets}"))])
            await imports.end_item(found.id, token, gets, 1)
        await imports.release(found.id, token, timedelta(), is_failure=True)
        return found.failures

    before = await failed()
    assert [await failed(), await failed(gets="more.mp4"), await failed()] == [before + 1, before + 2, 1]
    assert [await failed() for _ in range(MAX_FAILURES - 2)] == list(range(2, MAX_FAILURES))

    class Broken:
        """Cannot even give up."""

        async def give_up(self, found: Import, token: str) -> ImportState:
            raise KeyError("a bug of ours")

    runner = RunImports(
        imports=imports,
        run_import=cast(RunImport, Broken()),
        wanted=asyncio.Event(),
        lease_seconds=30,
        is_passing=lambda _: False,
    )
    assert [await runner.run_one() for _ in range(2)] == [True, False], "nobody takes it up again at once"


async def waiting_import(mesh: CatalogMesh, web: WebSource) -> tuple[ImportStore, str]:
    """Returns the store, and a running import that no service works on any more."""
    dataset = await mesh.create_dataset()
    web.gates["/slow.mp4"] = asyncio.Event()
    begun = await mesh.begin_import(dataset.id, url=pb.UrlSource(url=web.url("/slow.mp4")))
    await mesh.services.aclose()
    return mesh.stores.imports, begun.id
