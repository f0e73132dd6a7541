"""How `reeltune doctor` puts what it found."""

from __future__ import annotations

import io
import json

from rich.console import Console

from reeltune_cli.stack.doctor import Finding, Verdict, show, to_document

GOOD = Finding("disk", Verdict.GOOD, "70 GiB free")
WARNING = Finding("edge port", Verdict.WARNING, "8443 is taken", "reeltune up --port 0")
BAD = Finding("NATS", Verdict.BAD, "missing", "pip install [local]")


def test_only_what_is_bad_makes_a_machine_unfit() -> None:
    assert to_document([GOOD, WARNING])["fit"] is True
    document = json.loads(json.dumps(to_document([GOOD, BAD])))
    assert document["fit"] is False
    assert document["findings"][1] == {
        "subject": "NATS",
        "verdict": "bad",
        "detail": "missing",
        "advice": "pip install [local]",
    }


def test_a_person_reads_every_finding_and_its_advice() -> None:
    page = io.StringIO()
    show([GOOD, WARNING, BAD], Console(file=page, width=100))
    for words in ("70 GiB free", "8443 is taken", "→ reeltune up --port 0", "pip install [local]", "1 to mend"):
        assert words in page.getvalue()
