"""Paths, parts, containers, model files and safetensors headers."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog_svc.domain.container import Container, missing_bytes, sniff
from catalog_svc.domain.errors import FileNotAllowed
from catalog_svc.domain.file_path import MAX_PATH_BYTES, BadPath, ancestors, check_path, extension
from catalog_svc.domain.model_files import check_model_file, remote_code_keys
from catalog_svc.domain.safetensors_header import BadSafetensors, header_length, parse_header
from catalog_svc.domain.upload import MAX_PARTS, PART_BYTES, part_count, plan_parts


@given(st.text(max_size=80))
def test_an_accepted_path_stays_below_its_folder(path: str) -> None:
    try:
        check_path(path)
    except BadPath:
        return
    parts = path.split("/")
    assert not {"", ".", ".."}.intersection(parts)
    assert "\\" not in path
    assert len(path.encode()) <= MAX_PATH_BYTES
    assert path.isprintable() or not any(ord(character) < 32 for character in path)


def test_ancestors_and_extensions() -> None:
    assert ancestors("a/b/c.mp4") == ("a", "a/b")
    assert ancestors("c.mp4") == ()
    assert [extension(path) for path in ("a.MP4", "a/b.c/d", ".hidden", "x.tar.gz")] == [".mp4", "", "", ".gz"]


@given(st.integers(0, 5 * 1024**4))
def test_parts_cover_the_file_without_hole_or_overlap(size: int) -> None:
    parts = plan_parts(size)
    assert 1 <= len(parts) == part_count(size) <= MAX_PARTS
    assert parts[0].offset_bytes == 0
    assert parts[-1].offset_bytes + parts[-1].size_bytes == size
    assert len({part.size_bytes for part in parts[:-1]}) <= 1
    assert all(part.size_bytes >= PART_BYTES for part in parts[:-1])


@settings(max_examples=300)
@given(st.binary(max_size=400), st.sampled_from(list(Container)))
def test_no_bytes_make_the_container_check_raise_or_loop(data: bytes, container: Container) -> None:
    sniff(data)
    assert missing_bytes(container, lambda offset, length: data[offset : offset + length], len(data)) >= 0


def box(kind: bytes, payload: bytes) -> bytes:
    return (8 + len(payload)).to_bytes(4, "big") + kind + payload


def test_a_cut_mp4_is_known_by_its_last_box() -> None:
    data = box(b"ftyp", b"isom") + box(b"mdat", b"x" * 100)
    assert sniff(data) is Container.MP4
    for cut in (0, 1, 99, 104):
        shorter = data[: len(data) - cut]
        found = missing_bytes(
            Container.MP4, lambda offset, length, s=shorter: s[offset : offset + length], len(shorter)
        )  # type: ignore[misc]
        assert (found > 0) is (cut > 0)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"#EXTM3U\n",
        b"ffconcat version 1.0",
        b"\x89PNG\r\n",
        b"GIF89a",
        b"GGGG" * 100,
        b"PK\x03\x04",
        b"RIFF\0\0\0\0WAVE",
    ],
)
def test_what_is_no_video_container_is_never_opened(head: bytes) -> None:
    assert sniff(head) is None


@pytest.mark.parametrize(
    "path",
    [
        "config.json",
        "model-00001-of-00002.safetensors",
        "tokenizer.model",
        "merges.txt",
        "chat_template.jinja",
        "README.md",
        "LICENSE",
    ],
)
def test_the_files_of_a_model_are_taken(path: str) -> None:
    check_model_file(path)
    with pytest.raises(FileNotAllowed):
        check_model_file(f"{path}.py")


@given(st.sampled_from(["bin", "pt", "pth", "ckpt", "pkl", "py", "msgpack", "h5", "onnx", "sh", "safetensors.pkl", ""]))
def test_everything_else_is_refused_with_a_remedy(suffix: str) -> None:
    with pytest.raises(FileNotAllowed) as caught:
        check_model_file(f"weights.{suffix}" if suffix else "weights")
    assert caught.value.remedy


def test_remote_code_is_found_at_any_depth_and_not_in_vocabularies() -> None:
    deep: object = {"trust_remote_code": True}
    for _ in range(500):
        deep = [{"a": deep}]
    assert remote_code_keys(deep)
    assert remote_code_keys({"auto_map": {"AutoModel": "x.Y"}}) == ["auto_map"]
    assert remote_code_keys({"text_config": {"auto_map": {}}}) == ["text_config.auto_map"]
    assert remote_code_keys({"a": {"trust_remote_code": False}}) == ["a.trust_remote_code"]
    assert remote_code_keys({"model": {"vocab": {"auto_map": 17, "trust_remote_code": 3}}}) == []


def header_of(tensors: object) -> bytes:
    return json.dumps(tensors).encode()


def sound() -> dict[str, object]:
    return {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]},
    }


def test_a_sound_header_tells_tensors_and_parameters() -> None:
    header = header_of(sound())
    size = 8 + len(header) + 26
    assert header_length(len(header).to_bytes(8, "little"), size) == len(header)
    parsed = parse_header(header, size)
    assert (parsed.parameter_count, parsed.weight_bytes) == (7, 26)
    assert dict(parsed.shapes) == {"a": (2, 3), "b": ()}


@pytest.mark.parametrize(
    "change",
    [
        {"b": {"dtype": "BF16", "shape": [], "data_offsets": [25, 27]}},
        {"b": {"dtype": "BF16", "shape": [], "data_offsets": [22, 24]}},
        {"b": {"dtype": "BF16", "shape": [2], "data_offsets": [24, 26]}},
        {"b": {"dtype": "XYZ", "shape": [], "data_offsets": [24, 26]}},
        {"b": {"dtype": "BF16", "shape": [-1], "data_offsets": [24, 26]}},
        {"b": {"dtype": "BF16", "shape": [True], "data_offsets": [24, 26]}},
        {"b": {"dtype": "BF16", "shape": "x", "data_offsets": [24, 26]}},
        {"b": {"dtype": "BF16", "shape": []}},
        {"b": 3},
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused(change: dict[str, object]) -> None:
    header = header_of({**sound(), **change})
    with pytest.raises(BadSafetensors):
        parse_header(header, 8 + len(header) + 26)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_no_header_makes_the_parser_raise_anything_else(data: bytes) -> None:
    stream = io.BytesIO(data)
    try:
        length = header_length(stream.read(8), len(data))
        parse_header(stream.read(length), len(data))
    except BadSafetensors:
        return


def test_a_header_of_the_safetensors_library_is_read() -> None:
    numpy = pytest.importorskip("numpy")
    save = pytest.importorskip("safetensors.numpy").save
    data = save({"x": numpy.zeros((3, 5), numpy.float16), "y": numpy.zeros((7,), numpy.int64)})
    length = header_length(data[:8], len(data))
    assert parse_header(data[8 : 8 + length], len(data)).parameter_count == 22
