"""What an import that failed is told to have failed for."""

from __future__ import annotations

from catalog_svc.usecases import run_import


def test_every_error_that_ends_a_file_or_an_import_has_a_word_and_so_have_its_kinds() -> None:
    for kind in (*run_import._OF_A_FILE, *run_import._OF_THE_WHOLE):
        for each in (kind, type("Rarer", (kind,), {})):
            error = each.__new__(each)
            error.reason = "SAID"
            assert run_import._reason(error)
