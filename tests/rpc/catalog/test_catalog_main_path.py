"""Create, upload, validate, read, delete: the way of every dataset and model, through a real channel."""

from __future__ import annotations

import hashlib
import json
import time

import pytest
from reeltune.catalog.v1 import dataset_content_pb2 as content
from reeltune.catalog.v1 import dataset_pb2, model_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds
from reeltune.catalog.v1 import model_service_pb2 as ms
from reeltune.catalog.v1 import snapshot_service_pb2 as snap
from reeltune.catalog.v1 import upload_service_pb2 as us

from meshkit.auth.principal import Caller
from meshkit.testing import assert_eventually
from tests.rpc.catalog.catalog_mesh import ALICE, CatalogMesh, collected, model_files, refused
from tests.rpc.catalog.clips import h264_clip

CSV = b"video,question,answer,split\nclips/0.mp4,What moves?,A bar.,train\nclips/1.mp4,What moves?,Another bar.,eval\n"


def two_clips() -> dict[str, bytes]:
    return {"annotations.csv": CSV, "clips/0.mp4": h264_clip(0), "clips/1.mp4": h264_clip(1)}


async def test_a_dataset_goes_from_nothing_to_ready(mesh: CatalogMesh) -> None:
    created = await mesh.create_dataset("moving bars", description="bars")
    assert created.id.startswith("ds_")
    assert created.owner_id == ALICE
    assert created.state == dataset_pb2.DATASET_STATE_PENDING
    await mesh.put_all(created.id, two_clips())
    ready = await mesh.validated(created.id)
    assert ready.state == dataset_pb2.DATASET_STATE_READY, await mesh.issues(created.id)
    counts = ready.counts
    assert (counts.files, counts.clips, counts.clips_checked) == (3, 2, 2)
    assert (counts.rows, counts.train_rows, counts.eval_rows) == (2, 1, 1)
    assert (counts.errors, counts.warnings) == (0, 0)
    assert counts.duration_seconds == 2.0
    assert counts.size_bytes == sum(len(data) for data in two_clips().values())
    assert ready.annotation_format == dataset_pb2.ANNOTATION_FORMAT_COLUMNS
    assert len(ready.fingerprint) == 64


async def test_samples_come_in_canonical_form_with_their_clips(mesh: CatalogMesh) -> None:
    ready = await mesh.ready_dataset(two_clips())
    listed = await mesh.datasets.ListSamples(content.ListSamplesRequest(dataset_id=ready.id), metadata=mesh.as_user())
    assert [sample.split for sample in listed.samples] == ["train", "eval"]
    user, assistant = listed.samples[0].messages
    assert (user.role, assistant.role) == ("user", "assistant")
    assert user.content[0].video.path == "clips/0.mp4"
    assert not user.content[0].video.HasField("fps")
    assert user.content[1].text == "What moves?"
    assert assistant.content[0].text == "A bar."
    assert [clip.path for clip in listed.clips] == ["clips/0.mp4", "clips/1.mp4"]
    assert (listed.clips[0].frame_count, listed.clips[0].fps, listed.clips[0].codec) == (8, 8.0, "h264")
    assert listed.clips[0].url == ""
    only_eval = content.ListSamplesRequest(dataset_id=ready.id, split="eval")
    assert len((await mesh.datasets.ListSamples(only_eval, metadata=mesh.as_user())).samples) == 1


async def test_a_snapshot_hands_out_everything_and_says_that_it_was_whole(mesh: CatalogMesh) -> None:
    ready = await mesh.ready_dataset(two_clips())
    grant = mesh.tokens.machine(Caller.ATTEMPT, "job_1", dataset=ready.id, model="mdl_x")
    pieces = await collected(
        mesh.snapshots.StreamDatasetSnapshot(snap.StreamDatasetSnapshotRequest(dataset_id=ready.id), metadata=grant)
    )
    assert [piece.WhichOneof("piece") for piece in pieces] == ["dataset", "clips", "samples", "end"]
    assert (pieces[-1].end.clips, pieces[-1].end.samples) == (2, 2)
    for clip in pieces[1].clips.clips:
        fetched = await mesh.http.get(clip.url)
        assert hashlib.sha256(fetched.content).hexdigest() == clip.sha256
        assert fetched.content == two_clips()[clip.path]
        assert 0 < clip.url_expire_time.seconds - time.time() <= 15 * 60
    again = await mesh.snapshots.GetClips(
        snap.GetClipsRequest(dataset_id=ready.id, paths=["clips/1.mp4", "clips/0.mp4"]), metadata=grant
    )
    assert [clip.path for clip in again.clips] == ["clips/1.mp4", "clips/0.mp4"]
    missing = await refused(
        mesh.snapshots.GetClips(snap.GetClipsRequest(dataset_id=ready.id, paths=["none.mp4"]), metadata=grant)
    )
    assert (missing.reason, missing.metadata["path"]) == ("CLIP_NOT_FOUND", "none.mp4")


@pytest.mark.parametrize(
    "path", ["clips/\0.mp4", "../../etc/passwd", "", "x" * 30_000], ids=["NUL", "up", "none", "long"]
)
async def test_a_path_that_no_clip_can_have_names_none(mesh: CatalogMesh, path: str) -> None:
    ready = await mesh.ready_dataset(two_clips())
    grant = mesh.tokens.machine(Caller.ATTEMPT, "job_1", dataset=ready.id, model="mdl_x")
    asked = snap.GetClipsRequest(dataset_id=ready.id, paths=["clips/0.mp4", path])
    missing = await refused(mesh.snapshots.GetClips(asked, metadata=grant))
    assert missing.reason == "CLIP_NOT_FOUND"
    assert len(missing.message) < 1000


async def test_equal_datasets_have_equal_fingerprints_and_sample_ids(mesh: CatalogMesh) -> None:
    first = await mesh.ready_dataset(two_clips(), name="first")
    second = await mesh.ready_dataset(two_clips(), name="second")
    other = await mesh.ready_dataset({**two_clips(), "clips/1.mp4": h264_clip(2)}, name="other")
    assert first.fingerprint == second.fingerprint != other.fingerprint
    ids = []
    for dataset in (first, second):
        request = content.ListSamplesRequest(dataset_id=dataset.id)
        listed = await mesh.datasets.ListSamples(request, metadata=mesh.as_user())
        ids.append([sample.sample_id for sample in listed.samples])
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2


async def test_content_parts_are_understood(mesh: CatalogMesh) -> None:
    row = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "video", "path": "a.mp4", "fps": 4, "max_frames": 6, "start": 0.25, "end": 0.75},
                    {"type": "text", "text": "What moves?"},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "A bar."}]},
        ],
        "sample_id": "mine",
    }
    ready = await mesh.ready_dataset({"rows.jsonl": json.dumps(row).encode(), "a.mp4": h264_clip(0)})
    assert ready.annotation_format == dataset_pb2.ANNOTATION_FORMAT_CONTENT_PARTS
    listed = await mesh.datasets.ListSamples(content.ListSamplesRequest(dataset_id=ready.id), metadata=mesh.as_user())
    (sample,) = listed.samples
    assert sample.sample_id == "mine"
    assert [message.role for message in sample.messages] == ["system", "user", "assistant"]
    video = sample.messages[1].content[0].video
    assert (video.fps, video.max_frames, video.start_seconds, video.end_seconds) == (4.0, 6, 0.25, 0.75)
    assert not video.HasField("max_pixels")


SHAREGPT = [
    {"turns": [{"from": "Q", "value": "<video>What moves?"}, {"from": "A", "value": "A bar."}], "videos": ["a.mp4"]}
]
SIDE_FILE = {
    "mine": {
        "file_name": "rows.json",
        "formatting": "sharegpt",
        "columns": {"messages": "turns"},
        "tags": {"user_tag": "Q", "assistant_tag": "A"},
        "media_root": "media",
    }
}


@pytest.mark.parametrize(
    ("files", "format_"),
    [
        (
            {"rows.json": json.dumps(SHAREGPT).encode(), "dataset_info.json": json.dumps(SIDE_FILE).encode()},
            dataset_pb2.ANNOTATION_FORMAT_SHAREGPT,
        ),
        ({"media/a.txt": b"A bar."}, dataset_pb2.ANNOTATION_FORMAT_TEXT_FILES),
    ],
    ids=["side file", "text files"],
)
async def test_what_says_what_clips_show_may_be_several_files(
    mesh: CatalogMesh, files: dict[str, bytes], format_: dataset_pb2.AnnotationFormat.ValueType
) -> None:
    ready = await mesh.ready_dataset({**files, "media/a.mp4": h264_clip(0)})
    assert ready.annotation_format == format_
    assert (ready.counts.clips, ready.counts.rows, ready.counts.warnings) == (1, 1, 0)
    listed = await mesh.datasets.ListSamples(content.ListSamplesRequest(dataset_id=ready.id), metadata=mesh.as_user())
    (sample,) = listed.samples
    assert sample.messages[0].content[0].video.path == "media/a.mp4"
    assert sample.messages[1].content[0].text == "A bar."


async def test_a_model_goes_from_nothing_to_ready(mesh: CatalogMesh) -> None:
    created = await mesh.create_model()
    await mesh.put_all(created.id, model_files())
    ready = await mesh.validated_model(created.id)
    assert ready.state == model_pb2.MODEL_STATE_READY, ready.issues
    facts = ready.facts
    assert (facts.model_type, facts.architecture) == ("qwen3_vl", "Qwen3VLForConditionalGeneration")
    assert (facts.parameter_count, facts.weight_bytes) == (35, 140)
    assert (facts.context_length, facts.max_frames, facts.has_video_processor) == (4096, 768, True)
    assert facts.size_bytes == sum(len(data) for data in model_files().values())
    grant = mesh.tokens.machine(Caller.ATTEMPT, "job_1", dataset="ds_x", model=created.id)
    snapshot = await mesh.snapshots.GetModelSnapshot(snap.GetModelSnapshotRequest(model_id=created.id), metadata=grant)
    assert {file.path for file in snapshot.files} == set(model_files())
    for file in snapshot.files:
        assert (await mesh.http.get(file.url)).content == model_files()[file.path]


async def test_deleting_removes_rows_at_once_and_objects_soon(mesh: CatalogMesh) -> None:
    ready = await mesh.ready_dataset(two_clips())
    model = await mesh.create_model()
    await mesh.put_all(model.id, model_files())
    assert await mesh.blobs.list(f"contents/{ready.owner_id}/")
    await mesh.datasets.DeleteDataset(ds.DeleteDatasetRequest(dataset_id=ready.id), metadata=mesh.as_user())
    await mesh.models.DeleteModel(ms.DeleteModelRequest(model_id=model.id), metadata=mesh.as_user())
    gone = await refused(mesh.datasets.GetDataset(ds.GetDatasetRequest(dataset_id=ready.id), metadata=mesh.as_user()))
    assert gone.reason == "DATASET_NOT_FOUND"

    async def nothing_left() -> bool:
        return not await mesh.blobs.list()

    await assert_eventually(nothing_left)


async def test_a_hundred_small_clips_take_seconds(mesh: CatalogMesh) -> None:
    clips = {f"clips/{number:03}.mp4": h264_clip(number) for number in range(100)}
    rows = b"".join(b"%s,A bar moves.\n" % path.encode() for path in clips)
    created = await mesh.create_dataset()
    start = time.monotonic()
    await mesh.put_all(created.id, {"annotations.csv": b"video,caption\n" + rows, **clips})
    uploaded = time.monotonic()
    ready = await mesh.validated(created.id)
    validated = time.monotonic()
    assert ready.state == dataset_pb2.DATASET_STATE_READY, await mesh.issues(created.id)
    assert ready.counts.clips == 100
    listed = await mesh.uploads.ListFiles(
        us.ListFilesRequest(parent_id=created.id, page_size=1000), metadata=mesh.as_user()
    )
    assert len(listed.files) == 101
    # Bounds against a hang, wide enough for a busy machine.
    assert uploaded - start < 120, uploaded - start
    assert validated - uploaded < 120, validated - uploaded
