"""What previews show is what the model sees, for each family: pixels turned back from its own inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_qlora_six_families import SAVE

from trainer_svc.qlora.data_processor import DataProcessor
from trainer_svc.qlora.dataset_rows import Clip, Sample, Turn
from trainer_svc.qlora.frame_decoder import DecodedFrames
from trainer_svc.qlora.preview import describe, encode_sample
from trainer_svc.qlora.processor_loader import load_processor
from trainer_svc.qlora.spec import SamplingSpec

SIDE = 64


@pytest.fixture(scope="module", params=sorted(SAVE))
def processor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DataProcessor:
    return DataProcessor(load_processor(SAVE[request.param](tmp_path_factory.mktemp(request.param))))


def clip_of(count: int, seed: int) -> DecodedFrames:
    """Frames that no two of are alike, nor any its own mirror image: smooth, so that resizing changes little."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)
    frames = [
        np.stack([rows * 200, columns * (90 + 30 * seed), np.full((SIDE, SIDE), 40.0 * number)], axis=-1)
        for number in range(count)
    ]
    times = tuple(float(number) for number in range(count))
    return DecodedFrames(
        frames=np.stack(frames).astype(np.uint8),
        indices=tuple(range(count)),
        timestamps=times,
        fps=1.0,
        duration=float(count),
        frame_count=count,
        frames_in_range=count,
    )


@pytest.mark.parametrize("counts", [(4,), (5,), (4, 4)], ids=str)
def test_the_pictures_are_the_pixels_that_the_model_is_given(processor: DataProcessor, counts: tuple[int, ...]) -> None:
    clips = [clip_of(count, seed) for seed, count in enumerate(counts)]
    turns = (Turn("user", (*(Clip(Path(f"{n}.mp4")) for n in range(len(clips))), "What?")), Turn("assistant", ("So.",)))
    sample = Sample("s0", "train", turns)
    given = iter(clips)
    inputs = encode_sample(processor, sample, SamplingSpec(max_frames=8), lambda *_: (next(given), "test"))

    seen = processor.seen_pictures(inputs.encoded.inputs, counts)

    sizes = processor.frame_sizes(inputs.encoded.inputs, len(clips))
    for clip, pictures, (width, height) in zip(clips, seen, sizes, strict=True):
        assert pictures is not None
        assert pictures.shape == (len(clip.frames), height, width, 3)
        for frame, picture in zip(clip.frames, pictures, strict=True):
            resized = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC), np.int16)
            assert np.abs(resized - picture).mean() < 4, "the right frame, the right way up, in its own colours"
    shown, _ = describe(processor, inputs, max_frames=3, token_limit=0)
    for (width, height), clip in zip(sizes, shown["clips"], strict=True):
        assert clip["as_seen"]
        assert all((frame["width"], frame["height"]) == (width, height) for frame in clip["frames"])
