"""Files of attempts: paths, digests, names in the object store."""

from __future__ import annotations

import hashlib

import pytest

from scheduler_svc.domain.errors import InvalidField
from scheduler_svc.domain.files import FileSet, StoredFile, attempt_prefixes, check_files
from scheduler_svc.domain.ids import AttemptKey, JobId

KEY = AttemptKey(JobId("job_1"), 2)
SHA = "ab" * 32


def _files(*paths: str, step: int | None = None) -> FileSet:
    return FileSet(KEY, tuple(StoredFile(path, 1, SHA) for path in paths), step)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/a",
        "../a",
        "a/../b",
        "a//b",
        "a/",
        ".hidden",
        "a/.b",
        "a\\b",
        "a b",
        "a\0",
        "a\n",
        "ü",
        "checkpoints/1/a",
        "x" * 513,
    ],
)
def test_paths_that_could_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(InvalidField) as refused:
        check_files(_files("good", path), "files")
    assert refused.value.field == "files[1].path"


@pytest.mark.parametrize("path", ["adapter_model.safetensors", "a/b/c.json", "v1.0-rc+1=x", "_x"])
def test_ordinary_paths_are_taken_once(path: str) -> None:
    check_files(_files(path), "files")
    with pytest.raises(InvalidField):
        check_files(_files(path, path), "files")


@pytest.mark.parametrize(
    ("file", "field"),
    [
        (StoredFile("a", -1, SHA), "files[0].size_bytes"),
        (StoredFile("a", 2**60, SHA), "files[0].size_bytes"),
        (StoredFile("a", 1, "AB" * 32), "files[0].sha256"),
        (StoredFile("a", 1, "ab"), "files[0].sha256"),
    ],
)
def test_sizes_and_digests_are_checked(file: StoredFile, field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        check_files(FileSet(KEY, (file,)), "files")
    assert refused.value.field == field


def test_no_file_is_named_twice_or_lies_below_another() -> None:
    for paths in (("a", "a"), ("a", "a/b")):
        with pytest.raises(InvalidField, match=r"files\[1\]"):
            check_files(_files(*paths), "files")


def test_names_in_the_object_store() -> None:
    artifact, checkpoint = _files("a/b"), _files("state.json", step=50)
    assert artifact.object_name(artifact.files[0]) == "jobs/job_1/attempts/2/a/b"
    assert artifact.manifest_name == "jobs/job_1/attempts/2.manifest.json"
    assert checkpoint.object_name(checkpoint.files[0]) == "jobs/job_1/attempts/2/checkpoints/50/state.json"
    assert checkpoint.manifest_name == "jobs/job_1/attempts/2/checkpoints/50.manifest.json"
    neighbour = FileSet(AttemptKey(KEY.job_id, 20), artifact.files)
    names = [artifact.manifest_name, artifact.object_name(artifact.files[0]), checkpoint.manifest_name]
    assert all(name.startswith(attempt_prefixes(KEY)) for name in names)
    assert not neighbour.manifest_name.startswith(attempt_prefixes(KEY))


def test_the_digest_is_what_sha256sum_would_give_and_ignores_order() -> None:
    files = (StoredFile("b", 1, SHA), StoredFile("a", 1, "cd" * 32))
    text = f"{'cd' * 32}  a\n{SHA}  b\n"
    assert FileSet(KEY, files).digest == hashlib.sha256(text.encode()).hexdigest()
    assert FileSet(KEY, files).manifest == FileSet(KEY, files[::-1]).manifest
