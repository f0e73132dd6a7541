"""What is known of a family of models, in the trainer, in the catalog and in the docs."""

from __future__ import annotations

import re
from pathlib import Path

from catalog_svc.domain.frame_rule import KNOWN_KINDS
from trainer_svc.qlora.families import FAMILIES

TRAINING = Path(__file__).parents[3] / "docs" / "training.md"


def test_the_catalog_knows_how_each_familys_frames_become_tokens() -> None:
    assert set(FAMILIES) == KNOWN_KINDS


def test_the_docs_say_of_which_families_temporal_adapters_are_offered() -> None:
    offered = TRAINING.read_text("utf-8").partition("**Where it is offered.**")[2].partition("Elsewhere")[0]

    assert set(re.findall(r"`(\w+)`", offered)) == {name for name, one in FAMILIES.items() if one.frame_layouts}
