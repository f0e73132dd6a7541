from __future__ import annotations

import errno
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from fractions import Fraction
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
from fake_decoders import misbehaving, never_starts
from tiny_models import write_clip

from tests.rpc.catalog.clips import cut_clip, odd_clip, real_clips
from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.errors import BadClipError, ClipFault, DecodeProcessError
from trainer_svc.qlora.frame_decoder import DecordDecoder, FrameDecoder, PyAvDecoder, check_container
from trainer_svc.qlora.frame_sampling import FrameRequest

WAIT = 60


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "even.mp4", frames=24, rate=12, size=64)
    # The middle of its 30 frames lies between two of them.
    write_clip(folder / "tie.mp4", frames=30, rate=10, size=64)
    whole = write_clip(folder / "whole.mkv", frames=60, rate=12, size=64).read_bytes()
    (folder / "truncated.mp4").write_bytes((folder / "even.mp4").read_bytes()[:700])
    (folder / "half.mkv").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is no video at all")
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    (folder / "garbage.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 8)
    _write_uneven(folder / "uneven.mkv")
    _write_sound(folder / "sound.mp4")
    return folder


@pytest.fixture(params=[DecordDecoder, PyAvDecoder], ids=["decord", "pyav"])
def decoder(request: pytest.FixtureRequest) -> FrameDecoder:
    made: FrameDecoder = request.param()
    return made


def test_frames_carry_their_true_times_and_the_clip_its_true_count(decoder: FrameDecoder, clips: Path) -> None:
    decoded = decoder.decode(clips / "even.mp4", FrameRequest(max_frames=4))
    assert decoded.frames.shape == (4, 64, 64, 3)
    assert decoded.frames.dtype == np.uint8
    assert decoded.timestamps == pytest.approx([0, 8 / 12, 15 / 12, 23 / 12], abs=1e-3)
    assert (decoded.frame_count, decoded.frames_in_range, decoded.fps) == (24, 24, 12.0)
    assert decoded.duration == pytest.approx(2.0, abs=1e-3)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_clip_that_players_turn_is_turned(tmp_path: Path, degrees: int) -> None:
    """As phones make them: the pictures lie on their side, and the container tells by how much."""
    pictures = {}
    for rotation in (0, degrees):
        clip = tmp_path / f"{rotation}.mp4"
        with av.open(str(clip), "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            if rotation:
                stream.set_display_rotation(rotation)
            picture = np.zeros((64, 96, 3), np.uint8)
            picture[:16, :32] = 255
            for _ in range(4):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode(None))
        pictures[rotation] = PyAvDecoder().decode(clip, FrameRequest(max_frames=1)).frames[0]
    assert np.array_equal(pictures[degrees], np.rot90(pictures[0], k=degrees // 90))


def test_a_part_of_a_clip_keeps_the_clips_own_times(decoder: FrameDecoder, clips: Path) -> None:
    decoded = decoder.decode(clips / "even.mp4", FrameRequest(start=0.5, end=1.0, fps=6.0))
    assert decoded.timestamps == pytest.approx([0.5, 8 / 12, 11 / 12], abs=1e-3)
    assert (decoded.frame_count, decoded.frames_in_range) == (24, 6)


def test_uneven_clips_keep_their_times(decoder: FrameDecoder, clips: Path) -> None:
    decoded = decoder.decode(clips / "uneven.mkv", FrameRequest(max_frames=8))
    assert decoded.timestamps == pytest.approx([0.0, 0.1, 0.2, 0.3, 1.3, 2.3, 3.3, 4.3], abs=2e-3)


def test_both_decoders_give_the_same_pixels(clips: Path) -> None:
    for name in ("even.mp4", "whole.mkv", "uneven.mkv"):
        one, two = (make().decode(clips / name, FrameRequest()) for make in (DecordDecoder, PyAvDecoder))
        assert np.array_equal(one.frames, two.frames)
        assert one.timestamps == pytest.approx(two.timestamps, abs=1e-4)


@pytest.mark.parametrize("request_", [FrameRequest(max_pixels=700), FrameRequest(max_frames=3), FrameRequest(fps=7.0)])
def test_neither_scaling_nor_a_tie_between_two_frames_depends_on_the_decoder(
    clips: Path, request_: FrameRequest
) -> None:
    for name in ("even.mp4", "tie.mp4"):
        one, two = (make().decode(clips / name, request_) for make in (DecordDecoder, PyAvDecoder))
        assert one.indices == two.indices
        assert one.timestamps == two.timestamps
        assert np.array_equal(one.frames, two.frames)


@pytest.mark.parametrize("make", [DecordDecoder, PyAvDecoder])
def test_a_clip_that_begins_between_key_frames_has_the_frames_that_decode_at_their_times(
    make: Callable[[], FrameDecoder], tmp_path: Path
) -> None:
    clip = tmp_path / "cut.ts"
    clip.write_bytes(cut_clip())
    with DecodePool(decoder=make().name) as pool:
        futures = [pool.decode(clip, wanted) for wanted in (FrameRequest(), FrameRequest(start=1.0, end=3.0))]
        whole, part = (future.result(WAIT) for future in futures)
    assert (whole.frame_count, whole.fps, whole.duration) == (40, 10.0, 4.0)
    assert whole.timestamps[0] == 0
    assert whole.timestamps[-1] == pytest.approx(3.9)
    for decoded in (whole, part):
        # To within a shade of red: H.264 loses something.
        shown = [float(frame[20:40, 20:40, 0].mean()) / 4 for frame in decoded.frames]
        assert shown == pytest.approx([20 + seconds * 10 for seconds in decoded.timestamps], abs=1.2)
        assert list(decoded.indices) == [round(seconds * 10) for seconds in decoded.timestamps]


@pytest.mark.parametrize(
    ("options", "why"),
    [({"rotation": 90}, "turned by a quarter"), ({"pixels": "yuv420p10le"}, "its pixels are yuv420p10le")],
)
def test_what_decord_is_not_for_is_decoded_by_one_pyav_process_that_stays(
    options: dict[str, Any], why: str, tmp_path: Path
) -> None:
    clip = tmp_path / "odd.mp4"
    clip.write_bytes(odd_clip(**options))
    with pytest.raises(BadClipError, match=f"not for decord: .*{why}"):
        DecordDecoder().decode(clip, FrameRequest())
    with DecodePool(decoder="decord") as pool:
        first = pool.decode(clip, FrameRequest()).result(WAIT)
        processes = _decode_processes()
        second = pool.decode(clip, FrameRequest()).result(WAIT)
        assert len(processes) == 2
        assert _decode_processes() == processes
    assert np.array_equal(first.frames, second.frames)
    assert np.array_equal(first.frames, PyAvDecoder().decode(clip, FrameRequest()).frames)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_pictures_are_turned_as_players_turn_them(degrees: int, tmp_path: Path) -> None:
    for name, rotation in (("plain.mp4", 0), ("turned.mp4", degrees)):
        (tmp_path / name).write_bytes(odd_clip(rotation=rotation))
    plain, turned = (PyAvDecoder().decode(tmp_path / name, FrameRequest()) for name in ("plain.mp4", "turned.mp4"))
    assert np.array_equal(turned.frames, np.rot90(plain.frames, k=degrees // 90, axes=(1, 2)))


def test_large_frames_are_scaled_down(decoder: FrameDecoder, clips: Path) -> None:
    assert decoder.decode(clips / "even.mp4", FrameRequest(max_pixels=1024)).frames.shape == (8, 32, 32, 3)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("missing.mp4", ClipFault.MISSING),
        ("empty.mp4", ClipFault.EMPTY),
        ("text.mp4", ClipFault.NOT_VIDEO),
        ("playlist.mp4", ClipFault.NOT_VIDEO),
        ("truncated.mp4", ClipFault.UNDECODABLE),
        ("garbage.mp4", ClipFault.UNDECODABLE),
        ("sound.mp4", ClipFault.UNDECODABLE),
    ],
)
def test_bad_clips_are_told_by_their_fault(decoder: FrameDecoder, clips: Path, name: str, fault: ClipFault) -> None:
    with pytest.raises(BadClipError) as caught:
        decoder.decode(clips / name, FrameRequest())
    assert caught.value.fault is fault
    assert name in str(caught.value)
    assert str(clips) not in str(caught.value), "where clips lie on this machine is told to nobody"


def test_a_part_without_frames(decoder: FrameDecoder, clips: Path) -> None:
    with pytest.raises(BadClipError) as caught:
        decoder.decode(clips / "even.mp4", FrameRequest(start=10.0))
    assert caught.value.fault is ClipFault.NO_FRAMES


def test_a_truncated_stream_gives_what_it_holds_and_says_how_much(decoder: FrameDecoder, clips: Path) -> None:
    decoded = decoder.decode(clips / "half.mkv", FrameRequest(max_frames=4))
    assert decoded.frame_count < 60
    assert decoded.timestamps[-1] < 59 / 12


def test_containers_are_told_apart_by_content(clips: Path, tmp_path: Path) -> None:
    assert check_container(clips / "even.mp4") == "mov"
    shutil.copy(clips / "whole.mkv", tmp_path / "renamed.mp4")
    assert check_container(tmp_path / "renamed.mp4") == "matroska"


def test_the_pool_decodes_in_other_processes_and_in_parallel(clips: Path) -> None:
    with DecodePool(workers=2) as pool:
        futures = [pool.decode(clips / name, FrameRequest()) for name in ("even.mp4", "whole.mkv", "uneven.mkv")]
        decoded = [future.result(WAIT) for future in futures]
    assert np.array_equal(decoded[0].frames, PyAvDecoder().decode(clips / "even.mp4", FrameRequest()).frames)
    assert [entry.frame_count for entry in decoded] == [24, 60, 8]


def test_large_results_come_through_whole(clips: Path) -> None:
    with DecodePool(decoder="one", make=misbehaving, fallback=None) as pool:
        assert pool.decode("400000.mp4", FrameRequest()).result(WAIT).frames.shape == (400000, 2, 2, 3)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("hang-both.mp4", ClipFault.TIMED_OUT),
        ("abort-both.mp4", ClipFault.CRASHED),
        ("fault-both.mp4", ClipFault.UNDECODABLE),
    ],
)
def test_a_clip_that_both_decoders_fail_on_costs_that_clip_only(name: str, fault: ClipFault) -> None:
    with DecodePool(decoder="first", make=misbehaving, fallback="second", timeout_seconds=1.0) as pool:
        bad, good = pool.decode(name, FrameRequest()), pool.decode("1.mp4", FrameRequest())
        with pytest.raises(BadClipError) as caught:
            bad.result(WAIT)
        assert caught.value.fault is fault
        assert good.result(WAIT).frame_count == 1


@pytest.mark.parametrize("name", ["hang-first.mp4", "abort-first.mp4", "fault-first.mp4"])
def test_what_the_first_decoder_fails_on_is_tried_with_the_second(name: str) -> None:
    with DecodePool(decoder="first", make=misbehaving, fallback="second", timeout_seconds=1.0) as pool:
        assert pool.decode(name, FrameRequest()).result(WAIT).frame_count == 1
        assert pool.decode("1.mp4", FrameRequest()).result(WAIT).frame_count == 1


def test_a_width_that_decord_cannot_take_is_decoded_all_the_same(tmp_path: Path) -> None:
    """decord 0.6 pads rows of 48 pixels to 64 and then takes them for pixels of four channels."""
    clip = write_clip(tmp_path / "narrow.mp4", frames=8, rate=8, size=48)
    request = FrameRequest(max_frames=4)
    with pytest.raises(BadClipError):
        DecordDecoder().decode(clip, request)

    with DecodePool(decoder="decord") as pool:
        decoded = pool.decode(clip, request).result(WAIT)

    assert np.array_equal(decoded.frames, PyAvDecoder().decode(clip, request).frames)


def test_a_clip_of_which_decord_makes_frames_up_is_decoded_all_the_same(tmp_path: Path) -> None:
    """Encoded again without times of its own, as some tools do, a clip makes decord lose frames."""
    clip = tmp_path / "again.mp4"
    (tmp_path / "bikes.mp4").write_bytes(real_clips()["bikes.mp4"])
    with av.open(str(tmp_path / "bikes.mp4")) as source, av.open(str(clip), "w") as target:
        stream = target.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 272, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "35"}
        for frame in source.decode(video=0):
            frame.pts = None
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    with DecodePool(decoder="decord", timeout_seconds=3) as pool:
        # It gives up on many frames, and hangs on a few.
        for count in (16, 4):
            decoded = pool.decode(clip, FrameRequest(max_frames=count)).result(WAIT)
            assert (decoded.frame_count, len(decoded.frames)) == (250, count)


def test_a_decoder_that_hangs_is_killed_not_left_behind() -> None:
    with DecodePool(decoder="first", make=misbehaving, fallback=None, timeout_seconds=0.5) as pool:
        pool.decode("1.mp4", FrameRequest()).result(WAIT)
        before = _decode_processes()
        with pytest.raises(BadClipError):
            pool.decode("hang-first.mp4", FrameRequest()).result(WAIT)
        pool.decode("1.mp4", FrameRequest()).result(WAIT)
        assert before
        assert not before & _decode_processes()
    _until(lambda: not _decode_processes())


def test_closing_ends_a_decode_that_hangs_and_cancels_the_rest() -> None:
    began = time.monotonic()
    with DecodePool(decoder="first", make=misbehaving, fallback="second", timeout_seconds=300) as pool:
        running, waiting = pool.decode("hang-first.mp4", FrameRequest()), pool.decode("1.mp4", FrameRequest())
        _until(running.running)
    for future in (running, waiting):
        with pytest.raises(CancelledError):
            future.result(0)
    assert time.monotonic() - began < WAIT


def test_a_missing_decoder_is_no_bad_clip() -> None:
    with (
        DecodePool(decoder="pyav", make=never_starts, fallback=None) as pool,
        pytest.raises(DecodeProcessError, match="import av"),
    ):
        pool.decode("1.mp4", FrameRequest()).result(WAIT)


def test_a_process_that_cannot_be_started_is_told_and_the_next_clip_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with DecodePool(decoder="first", make=misbehaving, fallback=None) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(SpawnProcess, "start", _out_of_processes)
            with pytest.raises(DecodeProcessError, match="Resource temporarily unavailable"):
                pool.decode("1.mp4", FrameRequest()).result(WAIT)
        assert pool.decode("1.mp4", FrameRequest()).result(WAIT).frame_count == 1


def test_whatever_goes_wrong_is_the_answer() -> None:
    with DecodePool(decoder="first", make=misbehaving, fallback=None) as pool:
        with pytest.raises(TypeError):
            pool.decode("1.mp4", FrameRequest(draw=b"no text")).result(WAIT)  # type: ignore[arg-type]
        assert pool.decode("1.mp4", FrameRequest()).result(WAIT).frame_count == 1


def _out_of_processes(process: SpawnProcess) -> None:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _decode_processes() -> set[int]:
    """Children of this process that wait for clips."""
    return {child.pid for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())}


def _until(condition: object) -> None:
    deadline = time.monotonic() + WAIT
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _pictures(count: int) -> Iterator[av.VideoFrame]:
    for index in range(count):
        yield av.VideoFrame.from_ndarray(np.full((32, 32, 3), index * 20, np.uint8), format="rgb24")


def _write_uneven(file: Path) -> None:
    """8 frames: four at 10 frames a second, then four at 1."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=1000)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for picture, time_ms in zip(_pictures(8), [0, 100, 200, 300, 1300, 2300, 3300, 4300], strict=True):
            picture.pts = time_ms
            picture.time_base = Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _write_sound(file: Path) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        for start in itertools.accumulate([0] + [1024] * 7):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
