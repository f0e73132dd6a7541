"""`decode_pool`: clips per second through the decode pool against a bare decord loop in as many processes.

8 frames each of 640 x 360 H.264 clips of 6 s. The bare processes open, seek and decode, and keep the frames to
themselves; ours also have deadlines, check that frames are not made up, and send the frames to the trainer's process.
The two run in turn; the ratio is the median of the pairs. Told beside it: the share of a step that the demo's job, on
its own model, clips and settings, waits for data, which should be below 0.05.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np

from benchmarks.report import Result, print_result
from reeltune_cli.demo.recipe import TUNING_RECIPE
from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.frame_sampling import FrameRequest

CLIPS, ROUNDS, PROCESSES, FRAMES, PAIRS = 12, 6, 2, 8, 3
GOAL = 0.9


def main() -> None:
    with TemporaryDirectory() as folder:
        work = Path(folder)
        clips = [write_clip(work / f"{number}.mp4", seed=number) for number in range(CLIPS)] * ROUNDS
        pairs = [(pooled(clips), bare(clips)) for _ in range(PAIRS)]
        waited = demo_wait(work)
    ratios = [ours / theirs for ours, theirs in pairs]
    print_result(
        Result(
            name="decode_pool",
            ratio=statistics.median(ratios),
            goal=GOAL,
            higher_is_better=True,
            figures={
                "pool_clips_per_second": statistics.median(ours for ours, _ in pairs),
                "bare_clips_per_second": statistics.median(theirs for _, theirs in pairs),
                "lowest_ratio": min(ratios),
                "highest_ratio": max(ratios),
                "demo_data_wait_fraction": waited,
            },
        )
    )


def pooled(clips: list[Path]) -> float:
    """Clips per second of the pool, once its processes are up."""
    request = FrameRequest(max_frames=FRAMES)
    with DecodePool(workers=PROCESSES, decoder="decord") as pool:
        for future in [pool.decode(clips[0], request) for _ in range(2 * PROCESSES)]:
            future.result()
        began = time.perf_counter()
        for future in [pool.decode(clip, request) for clip in clips]:
            future.result()
        return len(clips) / (time.perf_counter() - began)


def bare(clips: list[Path]) -> float:
    """Clips per second of as many processes, each with a loop over its share, once they are up."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(PROCESSES) as processes:
        shares = [[str(clip) for clip in clips[number::PROCESSES]] for number in range(PROCESSES)]
        processes.map(decode_all, [share[:2] for share in shares], chunksize=1)
        began = time.perf_counter()
        processes.map(decode_all, shares, chunksize=1)
        return len(clips) / (time.perf_counter() - began)


def decode_all(clips: list[str]) -> int:
    """A bare decord loop."""
    import decord

    total = 0
    for clip in clips:
        reader: Any = decord.VideoReader(clip, num_threads=1)
        chosen = np.round(np.linspace(0, len(reader) - 1, FRAMES)).astype(int)
        total += reader.get_batch(chosen).asnumpy().nbytes
    return total


def demo_wait(work: Path) -> float:
    """Share of its steps that a run with the demo's settings waits for data, the first tenth left out."""
    # Only here: decode processes import this module again, and have no use for torch.
    from benchmarks.training_loop import make_material, points_of

    make_material(work / "model", work / "dataset", clips=TUNING_RECIPE.train_clips, questions=2)
    points = points_of(work / "model", work / "dataset", work / "out", demo_settings())
    steps = [point["values"] for point in points if "step_seconds" in point["values"]]
    steps = steps[len(steps) // 10 :]
    return sum(step["data_seconds"] for step in steps) / sum(step["step_seconds"] for step in steps)


def write_clip(file: Path, *, seed: int) -> Path:
    """Noise that moves: 180 frames at 30 a second."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(0, 255, (45, 240, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for index in range(180):
            picture = np.ascontiguousarray(texture[:, index * 4 : index * 4 + 640])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file


def demo_settings() -> dict[str, object]:
    """Those of the demo's job."""
    recipe = TUNING_RECIPE
    return {
        "lora.rank": recipe.lora_rank,
        "lora.alpha": recipe.lora_alpha,
        "lora.dropout": recipe.lora_dropout,
        "optimization.learning_rate": recipe.learning_rate,
        "optimization.batch_size": recipe.batch_size,
        "optimization.max_steps": recipe.max_steps,
        "sampling.max_frames": recipe.max_frames,
    }


if __name__ == "__main__":
    main()
