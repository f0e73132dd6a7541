"""Statistics of a dataset, counted in the database."""

from __future__ import annotations

import pytest
from reeltune.catalog.v1 import dataset_content_pb2 as content
from reeltune.catalog.v1 import dataset_statistics_pb2, sample_service_pb2

from catalog_svc.store import statistics_store
from tests.rpc.catalog.catalog_mesh import CatalogMesh, refused
from tests.rpc.catalog.clips import h264_clip

ROWS = """video,question,answer,split,tags
a.mp4,What?,A bar.,train,shape;colour
a.mp4,Where?,Left,train,
b.mp4,What?,Nothing at all,eval,shape
c.mp4,What is never trained?,A text that is longer than any other,test,place
"""


async def test_a_ready_dataset_tells_its_numbers_and_another_one_does_not(mesh: CatalogMesh) -> None:
    files = {"annotations.csv": ROWS.encode(), "a.mp4": h264_clip(1, frames=16), "b.mp4": h264_clip(2, width=128)}
    files["c.mp4"] = h264_clip(3, width=192)
    dataset = await mesh.ready_dataset(files)
    sampling = dataset_statistics_pb2.VisualSampling(max_frames=4)
    request = sample_service_pb2.GetDatasetStatisticsRequest(dataset_id=dataset.id, sampling=sampling)
    found = (await mesh.samples.GetDatasetStatistics(request, metadata=mesh.as_user())).statistics
    assert [(split.name, split.count) for split in found.splits] == [("train", 2), ("eval", 1), ("test", 1)]
    assert [(tag.name, tag.count) for tag in found.tags] == [("shape", 2), ("colour", 1), ("place", 1)]
    assert found.tag_count == 3
    assert {size.name for size in found.resolutions} == {"64x64", "128x64", "192x64"}
    assert [(codec.name, codec.count) for codec in found.codecs] == [("h264", 3)]
    assert (found.clip_seconds.minimum, found.clip_seconds.maximum, found.clip_seconds.count) == (1.0, 2.0, 3)
    lengths = found.answer_characters
    longest = len("A text that is longer than any other")
    assert (lengths.count, lengths.minimum, lengths.maximum) == (4, len("Left"), longest)
    assert (found.text_characters.count, found.text_characters.minimum) == (4, len("Where?") + len("Left"))
    # What no job trains or evaluates on is not counted where jobs are judged by it.
    used = found.used_answer_characters
    assert (used.count, used.minimum, used.maximum) == (3, len("Left"), len("Nothing at all"))
    assert found.used_text_characters.maximum == len("What?") + len("Nothing at all")
    wide, small = found.row_shapes
    assert (wide.rows, wide.clips[0].width, small.rows) == (1, 128, 2)
    assert wide.sample_id
    assert found.visual_tokens.count == 4
    assert found.visual_tokens.minimum > 0
    assert found.sampling.family == dataset_statistics_pb2.VISION_FAMILY_QWEN3_VL
    assert (found.sampling.max_frames, found.dataset_id) == (4, dataset.id)

    listed = content.ListSamplesRequest(dataset_id=dataset.id, tag="shape", page_size=1)
    first = await mesh.datasets.ListSamples(listed, metadata=mesh.as_user())
    listed.page_token = first.next_page_token
    second = await mesh.datasets.ListSamples(listed, metadata=mesh.as_user())
    assert [list(sample.tags) for page in (first, second) for sample in page.samples] == [
        ["shape", "colour"],
        ["shape"],
    ]
    assert second.next_page_token == ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics_store, "MOST_TAGS", 2)
        patch.setattr(statistics_store, "MOST_SPLITS", 1)
        asked = sample_service_pb2.GetDatasetStatisticsRequest(dataset_id=dataset.id)
        few = (await mesh.samples.GetDatasetStatistics(asked, metadata=mesh.as_user())).statistics
    assert [(tag.name, tag.count) for tag in few.tags] == [("shape", 2), ("colour", 1)]
    assert (few.tag_count, [split.name for split in few.splits]) == (3, ["train"])

    empty = await mesh.create_dataset("empty")
    request = sample_service_pb2.GetDatasetStatisticsRequest(dataset_id=empty.id)
    failure = await refused(mesh.samples.GetDatasetStatistics(request, metadata=mesh.as_user()))
    assert failure.reason == "DATASET_STATE_CONFLICT"
