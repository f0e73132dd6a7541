"""What a model will see of a sample, through every door; and what is known of the model itself."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from reeltune.catalog.v1 import dataset_content_pb2 as content
from reeltune.catalog.v1 import model_pb2
from reeltune.catalog.v1.sample_preview_pb2 import SamplePreview
from reeltune.catalog.v1.sample_service_pb2 import GetSamplePreviewRequest

from tests.e2e.curl import Curl
from tests.e2e.running_mesh import PASSWORD, RunningMesh, environment, reeltune
from tests.e2e.trained_job import TrainedJob

Picture = npt.NDArray[np.uint8]


async def first_sample(trained: TrainedJob) -> tuple[str, str, str]:
    """The id, the question and the clip's path of the first sample."""
    request = content.ListSamplesRequest(dataset_id=trained.dataset.id, page_size=1)
    sample = (await trained.owner.client.datasets.ListSamples(request)).samples[0]
    parts = sample.messages[0].content
    (clip,) = [part.video.path for part in parts if part.HasField("video")]
    (question,) = [part.text for part in parts if part.text]
    return sample.sample_id, question, clip


def frames_of(clip: Path) -> list[Picture]:
    with av.open(str(clip)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def picture_of(jpeg: bytes) -> Picture:
    assert jpeg.startswith(b"\xff\xd8\xff")
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def direct_tokens(model: Path, question: str, clip: Path, indices: list[int]) -> tuple[int, int]:
    """(all tokens, those of the video) up to the answer, from the model's own processor called as its makers say."""
    from transformers import AutoProcessor
    from transformers.video_utils import VideoMetadata

    processor = AutoProcessor.from_pretrained(model, local_files_only=True)
    frames = frames_of(clip)
    asked = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}
    text = processor.apply_chat_template([asked], tokenize=False, add_generation_prompt=True)
    with av.open(str(clip)) as container:
        fps = float(container.streams.video[0].average_rate or 0)
    metadata = VideoMetadata(total_num_frames=len(frames), fps=fps, frames_indices=indices)
    inputs = processor(
        text=[text],
        videos=[np.stack([frames[index] for index in indices])],
        video_metadata=[metadata],
        do_sample_frames=False,
        return_tensors="pt",
    )
    ids = inputs["input_ids"][0]
    return len(ids), int((ids == processor.video_token_id).sum())


@pytest.fixture(scope="module")
def made() -> dict[str, SamplePreview]:
    return {}


async def test_by_grpc_the_frames_are_the_clips_and_the_tokens_the_processors(
    trained: TrainedJob, made: dict[str, SamplePreview]
) -> None:
    sample_id, question, path = await first_sample(trained)
    request = GetSamplePreviewRequest(
        dataset_id=trained.dataset.id, sample_id=sample_id, model_id=trained.model.id, max_frames=4
    )
    preview = (await trained.owner.client.samples.GetSamplePreview(request, timeout=90)).preview
    made["grpc"] = preview

    (clip,) = preview.clips
    assert (clip.path, clip.frame_count) == (path, 4)
    originals = frames_of(trained.material.dataset / path)
    for frame in clip.frames:
        picture = picture_of(frame.jpeg)
        assert picture.shape[:2] == (clip.model_height, clip.model_width), "as the model sees it"
        size = (clip.model_width, clip.model_height)
        original = np.asarray(Image.fromarray(originals[frame.frame_index]).resize(size, Image.Resampling.BICUBIC))
        difference = np.abs(picture.astype(int) - original.astype(int))
        assert difference.mean() < 6, "the picture is that frame of the clip, but for JPEG"
    indices = [frame.frame_index for frame in clip.frames]
    before, video = direct_tokens(trained.material.model, question, trained.material.dataset / path, indices)
    labels = [span for span in preview.spans if span.is_label]
    assert preview.video_token_count == video > 0
    assert sum(span.token_count for span in preview.spans[: list(preview.spans).index(labels[0])]) == before
    (row,) = [row for row in trained.material.rows if row["video"] == path and row["question"] == question]
    assert [span.text for span in labels] == [f"{row['answer']}<|im_end|>"]


async def test_by_curl_it_is_the_same(stack: RunningMesh, trained: TrainedJob, made: dict[str, SamplePreview]) -> None:
    sample_id, _, _ = await first_sample(trained)
    curl = Curl(stack, trained.owner.user.token)
    query = f"model_id={trained.model.id}&max_frames=4"
    status, preview = await curl.get(f"/v1/datasets/{trained.dataset.id}/samples/{sample_id}/preview?{query}")
    assert status == 200, preview
    grpc = made["grpc"]
    assert int(preview["tokenCount"]) == grpc.token_count
    assert preview["renderedText"] == grpc.rendered_text
    pictures = [base64.b64decode(frame["jpeg"]) for frame in preview["clips"][0]["frames"]]
    assert pictures == [frame.jpeg for frame in grpc.clips[0].frames]
    status, same = await curl.get(f"/v1/datasets/{trained.dataset.id}/preview?sample_id={sample_id}&{query}")
    assert (status, same) == (200, preview)
    status, refused = await curl.get(f"/v1/datasets/{trained.dataset.id}/preview?sample_id=no%2Fsuch&{query}")
    assert (status, refused["details"][0]["metadata"]["sample_id"]) == (404, "no/such")
    status, refused = await curl.get(f"/v1/datasets/{trained.dataset.id}/samples/absent/preview?{query}")
    assert (status, refused["details"][0]["reason"]) == (404, "SAMPLE_NOT_FOUND")


async def test_by_the_command_line_it_lies_in_a_folder(stack: RunningMesh, trained: TrainedJob, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "endpoint.json").write_text((stack.home / "endpoint.json").read_text())

    def run(*arguments: str, stdin: str = "") -> str:
        done = reeltune(home, *arguments, timeout_seconds=120, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert environment(home)["REELTUNE_HOME"] == str(home)
    run("login", trained.owner.user.username, "--password-stdin", stdin=PASSWORD)
    shown = run("dataset", "preview", trained.dataset.id, "--model", trained.model.id, "--to", str(tmp_path / "frames"))
    assert "⟦" in shown
    assert "<|im_end|>⟧" in shown
    pictures = sorted((tmp_path / "frames").iterdir())
    assert len(pictures) == 8, "as a job has it by default"
    for picture in pictures:
        assert picture_of(picture.read_bytes()).size
    listed: dict[str, Any] = json.loads(run("dataset", "samples", trained.dataset.id, "--output", "json"))
    assert listed["samples"][0]["sampleId"] == (await first_sample(trained))[0]
    known = run("model", "show", trained.model.id)
    assert "forward step" in known
    assert "passed" in known
    assert "q_proj" in known


async def test_the_model_was_tried_and_is_known_by_its_parts(trained: TrainedJob) -> None:
    model = trained.model
    assert model.forward_check.state == model_pb2.FORWARD_CHECK_STATE_PASSED
    facts = model.facts
    assert sum(part.parameter_count for part in facts.parts) == facts.parameter_count
    assert {part.kind for part in facts.parts} >= {
        model_pb2.MODEL_PART_KIND_VISION, model_pb2.MODEL_PART_KIND_PROJECTOR, model_pb2.MODEL_PART_KIND_LANGUAGE
    }  # fmt: skip
    assert facts.has_chat_template
    assert facts.has_generation_marks
    assert facts.memory_16bit_bytes == 2 * facts.parameter_count
    assert facts.memory_4bit_bytes < facts.memory_16bit_bytes
