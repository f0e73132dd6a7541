"""Previews: the real tool once, and tools that hang, die or lie."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from reeltune.catalog.v1 import dataset_content_pb2 as content
from reeltune.catalog.v1 import dataset_pb2, model_pb2, visibility_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds
from reeltune.catalog.v1 import model_service_pb2 as ms
from reeltune.catalog.v1 import sample_service_pb2 as pb
from reeltune.catalog.v1.sample_preview_pb2 import SamplePreview

from catalog_svc.clients.local_content import LocalContent, LocalUnit
from catalog_svc.clients.model_tool_answers import preview_from_json
from catalog_svc.domain.entry import EntryId, Viewer
from catalog_svc.rpc.convert_preview import preview_to_proto
from meshkit.ids import new_id
from meshkit.testing import assert_eventually
from tests.rpc.catalog.catalog_mesh import BOB, CatalogMesh, Start, model_files, refused
from tests.rpc.catalog.clips import h264_clip

BASE = Path(__file__).parents[3] / "reeltune_cli" / "demo" / "base"
TOOL = f"{sys.executable} -m trainer_svc.qlora.model_tool"
ROWS = b"sample_id,video,question,answer\nfirst,clips/a.mp4,What moves?,A bar.\nsecond,clips/b.mp4,And here?,A bar.\n"
FILES = {"annotations.csv": ROWS, "clips/a.mp4": h264_clip(1, frames=12), "clips/b.mp4": h264_clip(2)}
Registered = tuple[dataset_pb2.Dataset, model_pb2.Model]


async def registered(mesh: CatalogMesh, files: dict[str, bytes] | None = None) -> Registered:
    dataset = await mesh.ready_dataset(FILES)
    model = await mesh.create_model()
    await mesh.put_all(model.id, files or model_files())
    return dataset, await mesh.validated_model(model.id)


def preview(
    mesh: CatalogMesh, dataset_id: str, model_id: str, sample_id: str = "first", user: str = "usr_alice", **fields: Any
) -> Awaitable[pb.GetSamplePreviewResponse]:
    request = pb.GetSamplePreviewRequest(dataset_id=dataset_id, sample_id=sample_id, model_id=model_id, **fields)
    return mesh.samples.GetSamplePreview(request, metadata=mesh.as_user(user), timeout=120)


async def test_a_preview_shows_frames_text_tokens_and_labels(start: Start) -> None:
    mesh = await start(model_tool_command=TOOL, preview_cache_bytes=0)
    dataset, model = await registered(mesh, {file.name: file.read_bytes() for file in BASE.iterdir()})
    assert model.state == model_pb2.MODEL_STATE_READY, model.issues
    assert model.forward_check.state == model_pb2.FORWARD_CHECK_STATE_PASSED, model.forward_check

    made = (await preview(mesh, dataset.id, model.id, max_frames=4, max_preview_frames=3)).preview
    (clip,) = made.clips
    assert (clip.path, clip.frame_count, clip.clip_frame_count) == ("clips/a.mp4", 4, 12)
    assert [frame.frame_index for frame in clip.frames] == [0, 7, 11]
    assert clip.frames[2].time_seconds == pytest.approx(11 / 8)
    picture = np.asarray(Image.open(io.BytesIO(clip.frames[1].jpeg)).convert("L"))
    assert clip.as_seen
    assert picture.shape == (48, 48), "what the model sees of 64 by 64"
    assert picture[30:, 23:25].mean() > 200, "the bar of frame 7 stands at 28 to 36 of 64"
    assert picture[30:, :15].mean() < 50
    assert made.rendered_text.count("<|video_pad|>") == 1
    assert "What moves?" in made.rendered_text
    assert made.token_count == made.text_token_count + made.video_token_count == sum(s.token_count for s in made.spans)
    assert made.video_token_count == 2 * 9, "pairs of frames of 3 by 3 tokens"
    assert [span.text for span in made.spans if span.is_label] == ["A bar.<|im_end|>"]
    assert made.label_token_count == sum(s.token_count for s in made.spans if s.is_label)
    assert not made.warnings

    defaults = (await preview(mesh, dataset.id, model.id, "second")).preview
    assert (defaults.sampling.max_frames, defaults.sampling.fps, defaults.sampling.max_pixels) == (8, 0, 0)
    assert defaults.clips[0].frame_count == 8
    await only_who_may_see_both_gets_one(mesh, dataset, model)


async def only_who_may_see_both_gets_one(
    mesh: CatalogMesh, dataset: dataset_pb2.Dataset, model: model_pb2.Model
) -> None:
    for ids, reason in (
        ((new_id("ds"), model.id), "DATASET_NOT_FOUND"),
        ((dataset.id, new_id("mdl")), "MODEL_NOT_FOUND"),
        ((dataset.id, model.id, "third"), "SAMPLE_NOT_FOUND"),
        ((dataset.id, model.id, "nul\0"), "SAMPLE_NOT_FOUND"),
    ):
        assert (await refused(preview(mesh, *ids))).reason == reason
    shared = visibility_pb2.VISIBILITY_SHARED
    assert (await refused(preview(mesh, dataset.id, model.id, user=BOB))).reason == "DATASET_NOT_FOUND"
    change = ds.UpdateDatasetRequest(dataset=dataset_pb2.Dataset(id=dataset.id, visibility=shared))
    await mesh.datasets.UpdateDataset(change, metadata=mesh.as_user())
    assert (await refused(preview(mesh, dataset.id, model.id, user=BOB))).reason == "MODEL_NOT_FOUND"
    await mesh.models.UpdateModel(
        ms.UpdateModelRequest(model=model_pb2.Model(id=model.id, visibility=shared)), metadata=mesh.as_user()
    )
    assert (await preview(mesh, dataset.id, model.id, user=BOB)).preview.token_count > 0


async def test_without_a_tool_there_are_no_previews(mesh: CatalogMesh) -> None:
    dataset, model = await registered(mesh)
    assert model.forward_check.state == model_pb2.FORWARD_CHECK_STATE_NOT_RUN
    failure = await refused(preview(mesh, dataset.id, model.id))
    assert failure.reason == "PREVIEW_UNAVAILABLE"
    assert "CATALOG_MODEL_TOOL_COMMAND" in failure.message
    pending = await mesh.create_model("pending")
    assert (await refused(preview(mesh, dataset.id, pending.id))).reason == "MODEL_STATE_CONFLICT"
    open_dataset = await mesh.create_dataset("open")
    assert (await refused(preview(mesh, open_dataset.id, model.id))).reason == "DATASET_STATE_CONFLICT"


def faked(folder: Path, answer: str, forward: str = "send({'forward': {}})") -> str:
    """A command that starts a tool which answers in its own way; another call changes the way of those that run.

    `answer` and `forward` are Python with `request` and `send`.
    """
    (folder / "preview.py").write_text(answer)
    (folder / "forward.py").write_text(forward)
    script = folder / "tool.py"
    lines = [
        "import json, os, pathlib, sys, time",
        "def send(value): print(json.dumps(value), flush=True)",
        "send({'ready': True})",
        "for line in sys.stdin:",
        "    request = json.loads(line)",
        "    exec(pathlib.Path(__file__).with_name(request['kind'] + '.py').read_text())",
    ]
    script.write_text("\n".join(lines))
    return f"{sys.executable} {script}"


FRAME = {"position": 0, "index": 0, "seconds": 0.0, "width": 1, "height": 1, "jpeg": "PGh0bWw+"}
CLIP = {
    **dict.fromkeys(("frame_count", "clip_frame_count", "width", "height", "model_width", "model_height"), 1),
    "decoder": "decord",
    "as_seen": True,
    "frames": [FRAME],
}
MARKUP_FOR_A_PICTURE = {
    **dict.fromkeys(("tokens", "video_tokens", "label_tokens", "token_limit"), 1),
    "sampling": {"max_frames": 8, "fps": 0.0, "max_pixels": 0},
    "text": "", "spans": [], "warnings": [], "clips": [CLIP],
}  # fmt: skip


PLACES = "request['model'] + ' and /usr/lib/secret/a.py'"
WAYS_TO_FAIL = [
    ("time.sleep(600)", "PREVIEW_FAILED", "TIMEOUT"),
    ("os.abort()", "PREVIEW_FAILED", "DIED"),
    ("send({'hello': 1})", "PREVIEW_FAILED", "BAD_ANSWER"),
    ("print('nonsense', flush=True)", "PREVIEW_FAILED", "DIED"),
    ("print('x' * (9 << 20), flush=True)", "PREVIEW_FAILED", "DIED"),
    (f"send({{'preview': {MARKUP_FOR_A_PICTURE}}})", "PREVIEW_FAILED", "BAD_ANSWER"),
    (
        "send({'failure': {'reason': 'OUT_OF_MEMORY', 'message': 'no memory', 'next_step': ''}})",
        "PREVIEW_FAILED",
        "OUT_OF_MEMORY",
    ),
    (
        f"send({{'failure': {{'reason': 'BAD_DATA', 'message': {PLACES}, 'next_step': 'mend it'}}}})",
        "PREVIEW_REFUSED",
        "BAD_DATA",
    ),
]
"""What a tool does, and the refusal and cause that must come of it."""


async def test_a_tool_that_hangs_dies_or_lies_costs_one_call(start: Start, tmp_path: Path) -> None:
    mesh = await start(model_tool_command=faked(tmp_path, "pass"), preview_seconds=1)
    dataset, model = await registered(mesh)
    for answer, reason, cause in WAYS_TO_FAIL:
        faked(tmp_path, answer)
        failure = await refused(preview(mesh, dataset.id, model.id))
        assert (failure.reason, failure.metadata["cause"]) == (reason, cause), answer
        assert not [place for place in (str(tmp_path), "/usr", "secret") if place in failure.message]
    listed = content.ListSamplesRequest(dataset_id=dataset.id)
    assert len((await mesh.datasets.ListSamples(listed, metadata=mesh.as_user())).samples) == 2, "and all else goes on"


async def test_a_clip_that_kills_the_first_decoder_is_tried_with_the_second(start: Start, tmp_path: Path) -> None:
    refusal = "send({'failure': {'reason': 'BAD_DATA', 'message': 'x', 'next_step': 'y'}})"
    answer = f"os.abort() if request['decoder'] == 'auto' else {refusal}"
    mesh = await start(model_tool_command=faked(tmp_path, answer))
    dataset, model = await registered(mesh)
    assert (await refused(preview(mesh, dataset.id, model.id))).reason == "PREVIEW_REFUSED"


async def test_children_are_kept_warm_bounded_and_sent_away(start: Start, tmp_path: Path) -> None:
    answer = "send({'failure': {'reason': 'BAD_DATA', 'message': str(os.getpid()), 'next_step': 'y'}})"
    mesh = await start(model_tool_command=faked(tmp_path, answer), model_tool_idle_seconds=1)
    dataset, model = await registered(mesh)
    failures = await asyncio.gather(*(refused(preview(mesh, dataset.id, model.id)) for _ in range(6)))
    pids = {failure.metadata["problem"] for failure in failures}
    assert len(pids) == 1, "one child answers one after the other"

    def is_gone() -> bool:
        return not psutil.pid_exists(int(next(iter(pids))))

    await assert_eventually(is_gone)
    later = await refused(preview(mesh, dataset.id, model.id))
    assert later.metadata["problem"] not in pids, "and a new one comes when it is needed"


async def test_no_more_wait_than_can_be_served(start: Start, tmp_path: Path) -> None:
    mesh = await start(model_tool_command=faked(tmp_path, "time.sleep(600)"), preview_seconds=0.2)
    dataset, model = await registered(mesh)
    failures = await asyncio.gather(*(refused(preview(mesh, dataset.id, model.id)) for _ in range(12)))
    assert {failure.reason for failure in failures} == {"PREVIEW_FAILED", "PREVIEWS_BUSY"}


def test_a_full_answer_fits_into_a_message() -> None:
    """64 pictures, the longest texts and all ids, each at its limit, in a message of 4 MiB."""

    jpeg = base64.b64encode(b"\xff\xd8\xff" + bytes((3 << 19) // 64)).decode()
    clip = {**CLIP, "frames": [{**FRAME, "jpeg": jpeg}] * 64}
    words = "水" * 150_000
    spans = [{"is_label": True, "is_video": False, "count": 150_000, "ids": [1 << 18] * 150_000, "text": words}]
    value = {**MARKUP_FOR_A_PICTURE, "clips": [clip], "text": words, "spans": spans}
    message: SamplePreview = preview_to_proto(preview_from_json({"preview": value}, ["a.mp4"], {}))
    assert 2 << 20 < message.ByteSize() < 4 << 20
    assert len(json.dumps(value)) < 8 << 20


FAILING_STEPS = [
    ("time.sleep(600)", "FORWARD_TIMEOUT"),
    ("os.abort()", "FORWARD_DIED"),
    ("send({'hello': 1})", "FORWARD_DIED"),
    (
        "send({'failure': {'reason': 'OUT_OF_MEMORY', 'message': 'MemoryError', 'next_step': 'x'}})",
        "FORWARD_OUT_OF_MEMORY",
    ),
    (
        f"send({{'failure': {{'reason': 'INTERNAL', 'message': {PLACES}, 'next_step': 'mend it'}}}})",
        "FORWARD_FAILED",
    ),
]
"""What a tool does when it is to try a model, and the reason of the issue that must come of it."""


async def test_a_model_whose_forward_step_fails_is_in_error_and_says_why(start: Start, tmp_path: Path) -> None:
    mesh = await start(model_tool_command=faked(tmp_path, "pass"), forward_seconds=1)
    model = await mesh.create_model()
    await mesh.put_all(model.id, model_files())
    for forward, reason in FAILING_STEPS:
        faked(tmp_path, "pass", forward)
        model = await mesh.validated_model(model.id)
        assert model.state == model_pb2.MODEL_STATE_ERROR, forward
        assert model.forward_check.state == model_pb2.FORWARD_CHECK_STATE_FAILED
        (issue,) = model.issues
        assert (issue.reason, issue.message) == (reason, model.forward_check.message)
        assert issue.remedy
        assert not [place for place in (str(tmp_path), "/usr", "secret") if place in issue.message]
        assert not model.HasField("facts")
    faked(tmp_path, "pass")
    model = await mesh.validated_model(model.id)
    assert model.state == model_pb2.MODEL_STATE_READY, "once the machine is sound again"


async def test_a_model_too_large_to_be_tried_is_ready_and_says_so(start: Start, tmp_path: Path) -> None:
    mesh = await start(model_tool_command=faked(tmp_path, "pass", "os.abort()"), forward_max_weight_bytes=100)
    model = await mesh.create_model()
    await mesh.put_all(model.id, model_files())
    model = await mesh.validated_model(model.id)
    assert model.state == model_pb2.MODEL_STATE_READY
    assert model.forward_check.state == model_pb2.FORWARD_CHECK_STATE_SKIPPED
    assert "at most 100 are tried" in model.forward_check.message
    assert [(part.kind, part.parameter_count) for part in model.facts.parts] == [
        (model_pb2.MODEL_PART_KIND_LANGUAGE, 35)
    ]
    assert not model.facts.has_chat_template


async def test_a_tool_gets_no_credential_and_no_address(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATALOG_S3_SECRET_KEY", "canary")
    answer = "send({'failure': {'reason': 'BAD_DATA', 'message': ' '.join(sorted(os.environ)), 'next_step': 'y'}})"
    mesh = await start(model_tool_command=faked(tmp_path, answer))
    dataset, model = await registered(mesh)
    names = (await refused(preview(mesh, dataset.id, model.id))).metadata["problem"].split()
    assert "HF_HUB_OFFLINE" in names
    assert "PATH" in names
    assert not [name for name in names if name.startswith("CATALOG_") or "KEY" in name or "SECRET" in name]


async def test_local_content_keeps_what_is_in_use_and_forgets_the_oldest(mesh: CatalogMesh, tmp_path: Path) -> None:
    dataset = await mesh.ready_dataset(FILES)
    viewer = Viewer(user_id="usr_alice")
    clips = await mesh.stores.datasets.list_clips(EntryId(dataset.id), viewer, "", 10)
    first, second = (LocalUnit(f"clips/{clip.sha256}", {"": clip}) for clip in clips)
    folder = LocalUnit("models/both", {f"a/{number}": clip for number, clip in enumerate(clips)})
    local = LocalContent(mesh.stores.objects, tmp_path, budget_bytes=max(first.size_bytes, second.size_bytes))
    async with local.holding(first, folder):
        async with local.holding(second):
            assert (local.root / second.key).read_bytes() == FILES["clips/b.mp4"]
        assert not (local.root / second.key).exists(), "there is no room, and the others are in use"
        assert (local.root / first.key).read_bytes() == FILES["clips/a.mp4"]
        assert (local.root / folder.key / "a" / "1").read_bytes() == FILES["clips/b.mp4"]
    async with local.holding(second):
        assert [path for path in local.root.rglob("*") if path.is_file()] == [local.root / second.key]
    await asyncio.gather(*(hold(local, unit) for unit in (first, second, folder) * 5))
    local.close()
    assert not local.root.exists()


async def hold(local: LocalContent, unit: LocalUnit) -> None:
    async with local.holding(unit):
        for path, file in unit.files.items():
            assert (local.root / unit.key / path).stat().st_size == file.size_bytes
