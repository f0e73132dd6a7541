"""What the probe's child finds of clips, with decord and without it; nothing is started but children."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import pytest
import pytest_asyncio

from catalog_svc.domain.clip import ClipFault, DecodedClip, FaultyClip
from catalog_svc.probe.frame_count import has_decord
from catalog_svc.probe.pool import ProbedClip, ProbePool
from catalog_svc.probe.stream_facts import DECORD_PIXELS
from tests.rpc.catalog.clips import concealed, cut_clip, h264_clip, odd_clip, real_clips
from trainer_svc.qlora.clip_packets import PLAIN_FORMATS

FIRST = "decord" if has_decord() else "pyav"


@pytest_asyncio.fixture(loop_scope="session")
async def pool() -> AsyncIterator[ProbePool]:
    made = ProbePool(1)
    yield made
    await made.close()


async def probe(pool: ProbePool, tmp_path: Path, data: bytes) -> ProbedClip:
    path = tmp_path / "clip"
    path.write_bytes(data)
    return await pool.probe_clip(path)


async def decoded(pool: ProbePool, tmp_path: Path, data: bytes) -> DecodedClip:
    outcome = (await probe(pool, tmp_path, data)).outcome
    assert isinstance(outcome, DecodedClip), outcome
    return outcome


async def test_real_clips_are_what_they_are(pool: ProbePool, tmp_path: Path) -> None:
    found = {name: await decoded(pool, tmp_path, data) for name, data in real_clips().items()}
    facts = {name: (clip.width, clip.height, clip.frame_count, clip.has_audio) for name, clip in found.items()}
    assert facts == {
        "bigbuckbunny.mp4": (1280, 720, 132, True),
        "bikes.mp4": (640, 272, 250, False),
        "carphone_distorted.mp4": (176, 144, 120, False),
        "carphone_pristine.mp4": (176, 144, 120, False),
    }
    assert found["bikes.mp4"].duration_seconds == pytest.approx(10.0)
    assert found["carphone_pristine.mp4"].fps == pytest.approx(30000 / 1001)
    for clip in found.values():
        assert (clip.decoder, clip.codec, clip.is_variable_frame_rate, clip.damaged_frames) == (FIRST, "h264", False, 0)
        assert clip.is_browser_playable
    hashes = {name: clip.perceptual_hash for name, clip in found.items()}
    assert (hashes["carphone_distorted.mp4"] ^ hashes["carphone_pristine.mp4"]).bit_count() <= 3
    assert (hashes["carphone_distorted.mp4"] ^ hashes["bikes.mp4"]).bit_count() > 15


async def test_uneven_frames_a_turned_picture_and_a_sound_are_told(pool: ProbePool, tmp_path: Path) -> None:
    uneven = await decoded(pool, tmp_path, odd_clip(times=tuple(n * n + n for n in range(16))))
    assert uneven.is_variable_frame_rate
    assert uneven.duration_seconds > 30
    turned = await decoded(pool, tmp_path, odd_clip(rotation=90))
    assert (turned.rotation, turned.width, turned.height) == (270, 64, 96)
    upside_down = await decoded(pool, tmp_path, odd_clip(rotation=180))
    assert (upside_down.rotation, upside_down.width, upside_down.height) == (180, 96, 64)
    sounding = await decoded(pool, tmp_path, odd_clip(with_audio=True))
    assert sounding.has_audio
    plain = await decoded(pool, tmp_path, odd_clip())
    assert (plain.rotation, plain.has_audio, plain.is_variable_frame_rate) == (0, False, False)


@pytest.mark.parametrize("width", [16, 48])
async def test_widths_that_decord_gets_wrong_are_left_to_pyav(pool: ProbePool, tmp_path: Path, width: int) -> None:
    clip = await decoded(pool, tmp_path, h264_clip(1, width=width, height=width))
    assert (clip.decoder, clip.width, clip.frame_count) == ("pyav", width, 8)


@pytest.mark.parametrize("options", [{"rotation": 90}, {"pixels": "yuv420p10le"}])
async def test_what_training_does_not_decode_with_decord_is_left_to_pyav(
    pool: ProbePool, tmp_path: Path, options: dict[str, Any]
) -> None:
    clip = await decoded(pool, tmp_path, odd_clip(**options))
    assert (clip.decoder, clip.frame_count, clip.damaged_frames) == ("pyav", 16, 0)


def test_catalog_and_training_spare_decord_the_same_pixels() -> None:
    assert DECORD_PIXELS == PLAIN_FORMATS


async def test_of_a_clip_that_begins_between_key_frames_what_decodes_counts(pool: ProbePool, tmp_path: Path) -> None:
    clip = await decoded(pool, tmp_path, cut_clip())
    assert (clip.decoder, clip.frame_count) == ("pyav", 40)
    assert clip.duration_seconds == pytest.approx(4.0)


async def test_a_damage_that_decoders_make_up_for_is_told(pool: ProbePool, tmp_path: Path) -> None:
    clip = await decoded(pool, tmp_path, concealed())
    assert (clip.decoder, clip.frame_count) == ("pyav", 48)
    assert clip.damaged_frames > 0
    # And is not taken for a damage of the next clip.
    assert (await decoded(pool, tmp_path, h264_clip(3))).damaged_frames == 0


async def test_a_poster_is_a_small_picture_of_a_sound_clip(pool: ProbePool, tmp_path: Path) -> None:
    probed = await probe(pool, tmp_path, real_clips()["bigbuckbunny.mp4"])
    with av.open(BytesIO(probed.poster), format="image2pipe") as opened:
        (frame,) = opened.decode(video=0)
    assert (frame.width, frame.height) == (320, 180)
    assert (await probe(pool, tmp_path, b"")).poster == b""


@pytest.mark.parametrize(
    ("clip", "is_playable"),
    [
        ({}, True),
        ({"codec": "libvpx-vp9", "container": "webm"}, True),
        ({"container": "matroska"}, False),
        ({"container": "mov"}, False),
        ({"codec": "mpeg4"}, False),
        ({"codec": "libx265"}, False),
        ({"pixels": "yuv444p"}, False),
    ],
    ids=str,
)
async def test_what_browsers_do_not_play_has_a_short_copy_that_they_do(
    pool: ProbePool, tmp_path: Path, clip: dict[str, str], is_playable: bool
) -> None:
    path = tmp_path / "clip"
    path.write_bytes(odd_clip(frames=84, size=(1280, 720), **clip))  # type: ignore[arg-type]
    outcome = (await pool.probe_clip(path)).outcome
    assert isinstance(outcome, DecodedClip)
    assert outcome.is_browser_playable is is_playable
    if is_playable:
        return
    proxy = tmp_path / "proxy"
    proxy.write_bytes(await pool.make_proxy(path))
    copy = (await pool.probe_clip(proxy)).outcome
    assert isinstance(copy, DecodedClip)
    assert copy.is_browser_playable
    assert (copy.width, copy.height, copy.codec, copy.damaged_frames) == (640, 360, "h264", 0)
    assert 9.5 < copy.duration_seconds < 10.5


FAKE_DECORD = """
class DECORDError(Exception):
    pass
class logging:
    ERROR = 1
    set_level = staticmethod(lambda level: None)
cpu = int
def VideoReader(*args, **kwargs):
    {}
"""


@pytest.mark.parametrize(
    "does",
    [
        "import ctypes; ctypes.PyDLL(None).sleep(3600)",  # in native code, and with the interpreter's lock held
        "import os; os.abort()",
        "raise DECORDError('no')",
        "raise MemoryError",
        "raise ZeroDivisionError",  # what nobody has thought of
    ],
    ids=["hangs", "crashes", "fails", "has no memory", "raises"],
)
async def test_when_decord_fails_in_whatever_way_pyav_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    for file, text in (("__init__.py", FAKE_DECORD.format(does)), ("_ffi/__init__.py", ""), ("_ffi/base.py", "")):
        path = tmp_path / "decord" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "decord/_ffi/base.py").write_text("class DECORDLimitReachedError(Exception): pass\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    pool = ProbePool(1, deadline_seconds=9)
    try:
        clip = await decoded(pool, tmp_path, h264_clip(4))
    finally:
        await pool.close()
    with_pyav = replace(clip, decoder="pyav")
    assert clip == with_pyav
    assert clip.frame_count == 8


async def test_a_clip_that_takes_more_memory_than_a_child_has_is_refused(tmp_path: Path) -> None:
    pool = ProbePool(1, child_bytes=512 * 1024**2, max_pixels=100_000_000)
    try:
        outcome = (await probe(pool, tmp_path, odd_clip(size=(4096, 4096), frames=2))).outcome
    finally:
        await pool.close()
    assert isinstance(outcome, FaultyClip)
    assert outcome.fault in (ClipFault.TOO_LARGE, ClipFault.UNDECODABLE)
