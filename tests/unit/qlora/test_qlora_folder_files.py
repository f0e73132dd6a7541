from __future__ import annotations

from pathlib import Path

import pytest

from trainer_svc.qlora.folder_files import MANIFEST, is_whole, write_folder


def fill(folder: Path) -> None:
    (folder / "a.bin").write_bytes(b"aaa")
    (folder / "b.json").write_text("{}")


def test_a_folder_is_written_with_its_manifest(tmp_path: Path) -> None:
    manifest = write_folder(tmp_path / "out" / "adapter", fill)
    assert [(entry["path"], entry["size"]) for entry in manifest["files"]] == [("a.bin", 3), ("b.json", 2)]
    assert is_whole(tmp_path / "out" / "adapter")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["adapter"]


def test_an_older_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    write_folder(folder, lambda building: (building / "old").touch())
    write_folder(folder, fill)
    assert sorted(path.name for path in folder.iterdir()) == ["a.bin", "b.json", MANIFEST]


def test_a_failure_half_way_leaves_the_older_folder(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    write_folder(folder, fill)

    def fail(building: Path) -> None:
        (building / "a.bin").write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_folder(folder, fail)
    assert is_whole(folder)
    assert (folder / "a.bin").read_bytes() == b"aaa"


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "add", "no manifest", "bad manifest"])
def test_any_damage_is_seen(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "checkpoint"
    write_folder(folder, fill)
    match damage:
        case "flip":
            (folder / "a.bin").write_bytes(b"aab")
        case "truncate":
            (folder / "a.bin").write_bytes(b"aa")
        case "remove":
            (folder / "b.json").unlink()
        case "add":
            (folder / "c").touch()
        case "no manifest":
            (folder / MANIFEST).unlink()
        case "bad manifest":
            (folder / MANIFEST).write_text("{")
    assert not is_whole(folder)
