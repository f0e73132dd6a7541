from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from trainer_svc.qlora.tensor_store import TensorStore

KIB = 1024


def kept(number: int) -> dict[str, torch.Tensor]:
    """About 8 KiB on disk."""
    return {"values": torch.full((KIB,), float(number))}


def key(number: int) -> str:
    return f"{number:064x}"


@pytest.fixture
def told() -> list[str]:
    return []


def opened(folder: Path, told: list[str], max_bytes: int = 1 << 20) -> TensorStore:
    return TensorStore(folder, max_bytes, told.append)


def size_on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_what_is_kept_is_found_by_any_process_to_the_last_bit(tmp_path: Path, told: list[str]) -> None:
    tensors = {
        "half": torch.randn(3, 5).to(torch.bfloat16),
        "mask": torch.tensor([True, False]),
        "ids": torch.arange(4)[None],
        "empty": torch.zeros(0, 7),
        "turned": torch.randn(4, 2).T,
    }
    assert opened(tmp_path, told).put(key(1), tensors, {"seconds": [0.1, 1 / 3]})
    entry = opened(tmp_path, told).get(key(1))
    assert entry is not None
    assert entry.facts == {"seconds": [0.1, 1 / 3]}
    assert entry.tensors.keys() == tensors.keys()
    for name, value in tensors.items():
        assert entry.tensors[name].dtype == value.dtype
        assert torch.equal(entry.tensors[name], value)
    assert told == []


def test_an_entry_that_is_read_is_a_map_of_its_file(tmp_path: Path, told: list[str]) -> None:
    """Reading costs memory only for what is looked at, and the file may be deleted meanwhile."""
    store = opened(tmp_path, told)
    store.put(key(1), kept(7), {})
    entry = store.get(key(1))
    maps = Path("/proc/self/maps").read_text()
    assert f"{key(1)}.safetensors" in maps
    (file,) = tmp_path.rglob("*.safetensors")
    file.unlink()
    assert entry is not None
    assert torch.equal(entry.tensors["values"], kept(7)["values"])


def test_what_is_not_there_is_not_found(tmp_path: Path, told: list[str]) -> None:
    store = opened(tmp_path, told)
    assert store.get(key(1)) is None
    assert not store.has(key(1))
    assert told == []


@pytest.mark.parametrize("place", [3, 20, -1, -KIB])
def test_one_bit_that_flips_is_found_out(tmp_path: Path, told: list[str], place: int) -> None:
    opened(tmp_path, told).put(key(1), kept(1), {"a": 1})
    (file,) = tmp_path.rglob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[place] ^= 4
    file.write_bytes(content)
    store = opened(tmp_path, told)
    assert store.get(key(1)) is None
    assert len(told) == 1
    assert file.name in told[0]
    assert not file.exists()
    assert store.put(key(1), kept(1), {})
    assert store.get(key(1)) is not None


@pytest.mark.parametrize("length", [0, 4, 100, 2000])
def test_a_file_that_ends_early_is_found_out(tmp_path: Path, told: list[str], length: int) -> None:
    opened(tmp_path, told).put(key(1), kept(1), {})
    (file,) = tmp_path.rglob("*.safetensors")
    os.truncate(file, length)
    assert opened(tmp_path, told).get(key(1)) is None
    assert "is damaged and made anew" in told[0]


def test_it_never_takes_more_than_its_bound_and_keeps_what_it_uses_itself(tmp_path: Path, told: list[str]) -> None:
    bound = 40 * KIB
    store = opened(tmp_path, told, bound)
    assert [store.put(key(number), kept(number), {}) for number in range(8)] == [True] * 5 + [False] * 3
    assert size_on_disk(tmp_path) <= bound
    assert all(store.get(key(number)) is not None for number in range(5))


def test_what_others_have_not_used_for_longest_makes_room(tmp_path: Path, told: list[str]) -> None:
    bound = 40 * KIB
    others = opened(tmp_path, told, bound)
    for number in range(5):
        others.put(key(number), kept(number), {})
    for number, file in enumerate(sorted(tmp_path.rglob("*.safetensors"))):
        os.utime(file, (1000 + number, 1000 + number))
    store = opened(tmp_path, told, bound)
    assert store.get(key(0)) is not None  # used now, so no longer the oldest
    assert all(store.put(key(number), kept(number), {}) for number in (10, 11))
    assert [number for number in range(5) if store.has(key(number))] == [0, 3, 4]
    assert size_on_disk(tmp_path) <= bound


def test_what_a_dead_process_left_unfinished_goes(tmp_path: Path, told: list[str]) -> None:
    opened(tmp_path, told).put(key(1), kept(1), {})
    (file,) = tmp_path.rglob("*.safetensors")
    old, new = file.with_suffix(".a.unfinished"), file.with_suffix(".b.unfinished")
    for left in (old, new):
        left.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    opened(tmp_path, told)
    assert not old.exists()
    assert new.exists()  # perhaps being written by a process that lives


def test_a_disk_that_takes_nothing_is_told_once(tmp_path: Path, told: list[str]) -> None:
    (tmp_path / "folder").write_text("a file")
    store = opened(tmp_path / "folder", told)
    assert not store.put(key(1), kept(1), {})
    assert store.get(key(1)) is None
    assert len(told) == 1
    assert "nothing more is cached" in told[0]
