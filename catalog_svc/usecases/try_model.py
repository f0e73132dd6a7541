"""Tries one forward step of a model, in the model tool, where its size allows."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from catalog_svc.clients.model_tool import ModelTool
from catalog_svc.clients.object_store import ObjectStore
from catalog_svc.domain.model import ForwardCheck, ForwardState, ModelFacts, ModelIssue, ModelVerdict
from catalog_svc.domain.upload import StoredFile
from meshkit.sandbox.lines import BadAnswer
from meshkit.sandbox.process import ChildDied, ChildTooSlow

_SMALLER = "use a smaller model, or ask the operator to allow more"


@dataclass(frozen=True, slots=True)
class TryModel:
    """Has the tool load a model as a job would, and run one step."""

    objects: ObjectStore
    tool: ModelTool
    spool_dir: Path | None
    max_weight_bytes: int
    """Larger models are not tried; 0: none is."""

    async def judge(self, facts: ModelFacts, files: Sequence[StoredFile]) -> ModelVerdict:
        """Returns the verdict on a model whose files are sound."""
        if why := self._why_not(facts):
            return ModelVerdict(facts, forward=why)
        with tempfile.TemporaryDirectory(prefix="reeltune-forward-", dir=self.spool_dir) as folder:
            for file in files:
                target = Path(folder) / file.path
                await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
                await self.objects.download(file.place, file.size_bytes, target)
            issue = await self._try(folder)
        if issue is None:
            return ModelVerdict(facts, forward=ForwardCheck(ForwardState.PASSED))
        return ModelVerdict(None, (issue,), ForwardCheck(ForwardState.FAILED, issue.message))

    def _why_not(self, facts: ModelFacts) -> ForwardCheck | None:
        if not self.tool.is_available:
            return ForwardCheck(ForwardState.NOT_RUN, "this mesh tries no models")
        if facts.weight_bytes > self.max_weight_bytes:
            what = (
                f"the weights have {facts.weight_bytes} bytes, models of at most {self.max_weight_bytes} are tried here"
            )
            return ForwardCheck(ForwardState.SKIPPED, what)
        if not facts.has_video_processor:
            return ForwardCheck(ForwardState.SKIPPED, "it has no video processor: no clip can be shown to it")
        return None

    async def _try(self, folder: str) -> ModelIssue | None:
        try:
            reason, message, remedy = await self.tool.forward(folder)
        except ChildTooSlow as error:
            return ModelIssue("FORWARD_TIMEOUT", f"its first forward step gave {error}", _SMALLER)
        except (ChildDied, BadAnswer):
            return ModelIssue("FORWARD_DIED", "its first forward step broke the process down, twice", _SMALLER)
        if not reason:
            return None
        if reason == "OUT_OF_MEMORY":
            what = "its first forward step takes more memory than a model is given here"
            return ModelIssue("FORWARD_OUT_OF_MEMORY", what, _SMALLER)
        return ModelIssue("FORWARD_FAILED", f"its first forward step fails: {message}", remedy)
