"""Clips as people see them: facts, posters and copies that browsers play."""

from __future__ import annotations

from reeltune.catalog.v1 import clip_service_pb2 as pb
from reeltune.catalog.v1 import dataset_pb2, sample_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds

from catalog_svc.probe.frame_count import has_decord
from meshkit.testing import assert_eventually
from tests.rpc.catalog.catalog_mesh import CatalogMesh, refused
from tests.rpc.catalog.clips import h264_clip, odd_clip, real_clips

DECODER = "decord" if has_decord() else "pyav"


async def get(mesh: CatalogMesh, dataset_id: str, path: str) -> sample_pb2.Clip:
    request = pb.GetClipRequest(dataset_id=dataset_id, path=path)
    return (await mesh.clips.GetClip(request, metadata=mesh.as_user())).clip


async def test_real_clips_are_ready_and_can_be_looked_at(mesh: CatalogMesh) -> None:
    clips = {f"clips/{name}": data for name, data in real_clips().items()}
    held_out = {"clips/carphone_distorted.mp4": "eval"}
    rows = "".join(f"{path},Something moves.,{held_out.get(path, 'train')}\n" for path in clips)
    files = {"annotations.csv": f"video,caption,split\n{rows}".encode(), **clips}
    dataset = await mesh.ready_dataset(files)
    assert [(reason, file) for reason, file, _ in await mesh.issues(dataset.id)] == [
        ("HELD_OUT_CLIP_LIKE_TRAIN", "clips/carphone_distorted.mp4")
    ]

    listed, token = [], ""
    while True:
        request = pb.ListClipsRequest(dataset_id=dataset.id, page_size=3, page_token=token)
        page = await mesh.clips.ListClips(request, metadata=mesh.as_user())
        listed += page.clips
        if not (token := page.next_page_token):
            break
    assert [clip.path for clip in listed] == sorted(clips)
    assert {clip.decoder for clip in listed} == {DECODER}
    bunny = listed[0]
    assert (bunny.width, bunny.height, bunny.has_audio, bunny.rotation) == (1280, 720, True, 0)
    assert bunny.is_browser_playable
    assert not bunny.proxy_url
    assert len(bunny.perceptual_hash) == 16
    assert (await mesh.http.get(bunny.url)).content == clips["clips/bigbuckbunny.mp4"]
    poster = await mesh.http.get(bunny.poster_url)
    assert poster.headers["content-type"] == "image/jpeg"
    assert poster.content.startswith(b"\xff\xd8\xff")


async def test_a_clip_that_browsers_do_not_play_has_a_copy_and_all_of_it_goes_with_the_file(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    files = {"annotations.csv": b"video,caption\na.mkv,\n", "a.mkv": odd_clip(container="matroska")}
    await mesh.put_all(dataset.id, files)
    assert (await mesh.validated(dataset.id)).state == dataset_pb2.DATASET_STATE_ERROR  # the row has no answer
    clip = await get(mesh, dataset.id, "a.mkv")
    proxy = await mesh.http.get(clip.proxy_url)
    assert (proxy.headers["content-type"], proxy.content[4:8]) == ("video/mp4", b"ftyp")
    for path in ("b.mkv", "a\0", "../a.mkv", "a" * 4000):
        request = pb.GetClipRequest(dataset_id=dataset.id, path=path)
        assert (await refused(mesh.clips.GetClip(request, metadata=mesh.as_user()))).reason == "CLIP_NOT_FOUND"

    await mesh.put(dataset.id, "a.mkv", h264_clip(5))

    async def is_swept() -> bool:
        return len(await mesh.blobs.list()) == 2

    await assert_eventually(is_swept)
    # Once it is back, so are its pictures.
    await mesh.put_all(dataset.id, files)
    await mesh.validated(dataset.id)
    again = await get(mesh, dataset.id, "a.mkv")
    assert [(await mesh.http.get(url)).status_code for url in (again.poster_url, again.proxy_url)] == [200, 200]


async def test_a_dataset_that_is_deleted_leaves_no_picture(mesh: CatalogMesh) -> None:
    dataset = await mesh.ready_dataset({"annotations.csv": b"video,caption\na.mp4,A bar.\n", "a.mp4": h264_clip()})
    assert any(stat.key.endswith(".poster.jpg") for stat in await mesh.blobs.list())
    await mesh.datasets.DeleteDataset(ds.DeleteDatasetRequest(dataset_id=dataset.id), metadata=mesh.as_user())

    async def is_empty() -> bool:
        return not await mesh.blobs.list()

    await assert_eventually(is_empty)
