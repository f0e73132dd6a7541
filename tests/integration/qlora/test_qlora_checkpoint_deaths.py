"""A process that dies anywhere in writing a checkpoint, or whose disk is full, leaves one to go on from."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainer_svc.qlora.checkpoint_folders import KeepRule, newest_checkpoint, read_state, write_checkpoint
from trainer_svc.qlora.errors import CheckpointMismatchError, DiskTroubleError
from trainer_svc.qlora.folder_files import disk_trouble, is_whole

IDENTITY = {"base model": "one"}
KEEP = KeepRule(2)
# Dies by SIGKILL just before the N-th operation on a file, a folder or a disk.
DYING_WRITER = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(":") if path]
from tests.integration.qlora.test_qlora_checkpoint_deaths import write

folder, step, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
operations = []

def count(event):
    operations.append(event)
    if len(operations) == last:
        os.kill(os.getpid(), signal.SIGKILL)

synced = os.fsync
os.fsync = lambda descriptor: (count("fsync"), synced(descriptor))
watched = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.scandir", "os.listdir", "shutil.rmtree")
sys.addaudithook(lambda event, arguments: count(event) if event in watched else None)
write(folder, step)
print(len(operations))
"""


def write(folder: Path, step: int, size: int = 3000, *, owes: bool = False) -> Path:
    """A checkpoint of three files beside the state, as the training library's."""

    def fill(building: Path) -> None:
        for name in ("adapter", "optimizer", "random"):
            with (building / f"{name}.safetensors").open("wb") as stream:
                stream.write(bytes([step]) * size)

    content = {"scaler": {}, "owes_evaluation": owes}
    return write_checkpoint(folder, content, fill, step=step, identity=IDENTITY, keep=KEEP)


def dying(folder: Path, step: int, operation: int) -> tuple[int, str]:
    command = [sys.executable, "-c", DYING_WRITER, str(folder), str(step), str(operation)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def newest_step(folder: Path) -> int:
    found, _ = newest_checkpoint(folder, IDENTITY)
    assert found is not None, "nothing is left to go on from"
    assert is_whole(found)
    return int(read_state(found)["step"])


def test_a_death_at_any_operation_leaves_the_one_before_or_the_new_one(tmp_path: Path) -> None:
    prepared = tmp_path / "prepared"
    for step in (1, 2):
        write(prepared, step)
    code, said = dying(shutil.copytree(prepared, tmp_path / "whole"), 3, 0)
    assert code == 0, said
    operations = int(said)
    assert operations > 20

    found = []
    for operation in range(1, operations + 1):
        folder = shutil.copytree(prepared, tmp_path / str(operation))
        code, said = dying(folder, 3, operation)
        assert code == -signal.SIGKILL, said
        found.append(newest_step(folder))
        # And whoever goes on there writes the next one as if nothing had happened.
        write(folder, 4)
        assert newest_step(folder) == 4
        shutil.rmtree(folder)

    assert found == sorted(found), "once it is there it stays"
    assert set(found) == {2, 3}


def test_the_same_step_again_never_takes_the_one_that_is_there(tmp_path: Path) -> None:
    write(tmp_path / "prepared", 1)
    for operation in range(1, 12):
        folder = shutil.copytree(tmp_path / "prepared", tmp_path / str(operation))
        dying(folder, 1, operation)
        assert newest_step(folder) == 1


def test_one_that_owes_a_measurement_gives_way_to_one_that_has_it_and_to_no_other(tmp_path: Path) -> None:
    write(tmp_path, 1, owes=True)
    inode = (tmp_path / "step-00000001" / "state.json").stat().st_ino
    write(tmp_path, 1, owes=True)
    assert (tmp_path / "step-00000001" / "state.json").stat().st_ino == inode
    measured = write(tmp_path, 1)
    assert not read_state(measured)["owes_evaluation"]
    write(tmp_path, 1, owes=True)
    assert not read_state(measured)["owes_evaluation"]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_death_while_one_that_owes_is_replaced_leaves_either(tmp_path: Path) -> None:
    """The only one there is: there is none before to go on from."""
    prepared = tmp_path / "prepared"
    write(prepared, 3, owes=True)
    code, said = dying(shutil.copytree(prepared, tmp_path / "whole"), 3, 0)
    assert code == 0, said

    owed = []
    # What comes before its second half is as in the first test.
    for operation in range(int(said) // 2, int(said) + 1):
        folder = shutil.copytree(prepared, tmp_path / str(operation))
        code, said_then = dying(folder, 3, operation)
        assert code == -signal.SIGKILL, said_then
        assert newest_step(folder) == 3
        owed.append(bool(read_state(folder / "step-00000003")["owes_evaluation"]))
        write(folder, 3)
        write(folder, 4)
        names = [path.name for path in folder.iterdir() if "building" not in path.name]
        assert sorted(names) == ["step-00000003", "step-00000004"]
        assert not read_state(folder / "step-00000003")["owes_evaluation"]

    assert owed == sorted(owed, reverse=True), "once it is measured it stays"
    assert set(owed) == {True, False}


@pytest.mark.parametrize("damaged", [1, 2, 3])
@pytest.mark.parametrize("damage", ["flip", "truncate", "lose a file", "lose the manifest", "spoil the manifest"])
def test_the_newest_whole_one_is_found_behind_damaged_ones(tmp_path: Path, damage: str, damaged: int) -> None:
    paths = [
        write_checkpoint(tmp_path, {}, _fill, step=step, identity=IDENTITY, keep=KeepRule(9)) for step in (3, 2, 1)
    ]
    for path in paths[:damaged]:
        _spoil(path, damage)

    found, passed_over = newest_checkpoint(tmp_path, IDENTITY)

    assert found == (paths[damaged] if damaged < len(paths) else None)
    assert passed_over == paths[:damaged]


def test_what_the_best_is_survives_in_the_folder(tmp_path: Path) -> None:
    keep = KeepRule(1, best=True, every_steps=4)
    for step, loss in enumerate([0.9, 0.2, 0.5, None, 0.3, None], start=1):
        write_checkpoint(tmp_path, {}, _fill, step=step, identity=IDENTITY, keep=keep, eval_loss=loss)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000004", "step-00000006"]


def test_another_runs_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, 1)
    write_checkpoint(tmp_path, {}, _fill, step=1, identity={"base model": "another"}, keep=KEEP)
    with pytest.raises(CheckpointMismatchError, match="base model"):
        newest_checkpoint(tmp_path, IDENTITY)


def test_a_full_disk_is_told_by_name_and_takes_nothing_that_was_there(tmp_path: Path) -> None:
    """With a limit on the size of files, which stands for a disk without room."""
    write(tmp_path, 1)
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from tests.integration.qlora.test_qlora_checkpoint_deaths import write\n"
        "from trainer_svc.qlora.errors import DiskTroubleError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try:\n"
        "    write(Path(sys.argv[1]), 2, 9000)\n"
        "except DiskTroubleError as error:\n"
        "    print(error)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ended.stdout == "step-00000002 could not be written: file too large\n", ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"], "what was half-written is gone"
    assert newest_step(tmp_path) == 1


def test_the_systems_word_is_understood_from_a_library_that_writes_by_itself(tmp_path: Path) -> None:
    assert disk_trouble(RuntimeError("Error while serializing: I/O error: No space left (os error 28)"))
    assert disk_trouble(OSError(28, "No space left on device"))
    assert not disk_trouble(OSError(2, "No such file"))
    assert not disk_trouble(RuntimeError("the optimizer is broken"))
    with pytest.raises(DiskTroubleError, match="no space left on device"):
        write_checkpoint(tmp_path, {}, _no_room, step=1, identity=IDENTITY, keep=KEEP)


def _no_room(_: Path) -> None:
    raise OSError(28, "No space left on device")


def _fill(building: Path) -> None:
    (building / "adapter.safetensors").write_bytes(b"weights")


def _spoil(checkpoint: Path, damage: str) -> None:
    file, manifest = checkpoint / "adapter.safetensors", checkpoint / "manifest.json"
    match damage:
        case "flip":
            file.write_bytes(b"weighta")
        case "truncate":
            file.write_bytes(b"weight")
        case "lose a file":
            file.unlink()
        case "lose the manifest":
            manifest.unlink()
        case "spoil the manifest":
            manifest.write_text(json.dumps({"files": []}))
