"""The life cycle of entries, held against the contract."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from reeltune.catalog.v1 import dataset_pb2, model_pb2, visibility_pb2

from catalog_svc.domain.entry import (
    TRANSITIONS,
    Action,
    Entry,
    EntryId,
    EntryKind,
    EntryState,
    Visibility,
    next_state,
)
from catalog_svc.domain.errors import StateConflict
from catalog_svc.domain.issue import Severity
from catalog_svc.domain.sample import AnnotationFormat

MIGRATION = Path(__file__).parents[3] / "catalog_svc/sql/migrations/0001_create_catalog.sql"


def names(enum: object, prefix: str) -> set[str]:
    return {name.removeprefix(prefix) for name in enum.keys() if not name.endswith("_UNSPECIFIED")}  # type: ignore[attr-defined]  # noqa: SIM118


def test_states_are_those_of_the_contract_and_the_database() -> None:
    states = {state.value for state in EntryState}
    assert names(dataset_pb2.DatasetState, "DATASET_STATE_") == states
    assert names(model_pb2.ModelState, "MODEL_STATE_") == states
    listed = ", ".join(f"'{state.value}'" for state in EntryState)
    assert f"CHECK (state IN ({listed}))" in MIGRATION.read_text()
    assert names(visibility_pb2.Visibility, "VISIBILITY_") == {visibility.value for visibility in Visibility}
    assert names(dataset_pb2.IssueSeverity, "ISSUE_SEVERITY_") == {severity.value for severity in Severity}
    assert names(dataset_pb2.AnnotationFormat, "ANNOTATION_FORMAT_") == {f.value for f in AnnotationFormat}


def test_nothing_leads_out_of_ready() -> None:
    for action in set(Action) - {Action.MAKE_VERSION}:  # which changes another entry
        with pytest.raises(StateConflict) as caught:
            next_state(EntryKind.DATASET, EntryState.READY, action)
        assert caught.value.allowed == tuple(
            sorted(before.value for before, possible in TRANSITIONS if possible is action)
        )


def test_an_error_is_mended_by_changing_files() -> None:
    assert next_state(EntryKind.MODEL, EntryState.ERROR, Action.CHANGE_FILES) is EntryState.PENDING
    assert next_state(EntryKind.MODEL, EntryState.PENDING, Action.VALIDATE) is EntryState.PROCESSING


def test_etags_follow_the_revision() -> None:
    now = datetime.now(UTC)

    def entry(revision: int) -> Entry:
        return Entry(
            EntryId("ds_1"),
            EntryKind.DATASET,
            "usr_1",
            "a",
            "",
            Visibility.PRIVATE,
            EntryState.PENDING,
            revision,
            0,
            0,
            now,
            now,
            1,
            EntryId("ds_x"),
            None,
            None,
        )

    assert entry(1).etag == entry(1).etag != entry(2).etag
