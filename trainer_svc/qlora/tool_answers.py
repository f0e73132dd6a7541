"""What the model tool is asked, and what it answers: JSON values.

    {"kind": "preview", "model": FOLDER, "dataset": FOLDER, "sample": {…}, "sampling": {…}, "max_frames": 16,
     "decoder": "auto"}
    {"kind": "forward", "model": FOLDER}

`sample` is a `reeltune.catalog.v1.Sample` whose clips lie in the dataset folder's `clips/`; the model's folder needs no
weights for a preview. An answer is `{"preview": …}`, `{"forward": …}` or `{"failure": {reason, message, next_step}}`.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from google.protobuf.json_format import ParseDict
from reeltune.catalog.v1 import sample_pb2

from trainer_svc.qlora.catalog_rows import sample_to_row
from trainer_svc.qlora.data_processor import DataProcessor
from trainer_svc.qlora.dataset_rows import KNOWN_SPLITS, Sample, read_sample
from trainer_svc.qlora.failures import as_failure
from trainer_svc.qlora.forward_check import forward_step
from trainer_svc.qlora.frame_decoder import decode_here, make_decoder
from trainer_svc.qlora.model_folder import check_model_folder, max_positions
from trainer_svc.qlora.preview import describe, encode_sample
from trainer_svc.qlora.processor_loader import load_processor
from trainer_svc.qlora.spec import TrainingSpec

_HELD_PROCESSORS = 4
_EVALUATED = frozenset(name for name, split in KNOWN_SPLITS.items() if split in ("train", "eval"))


class ToolAnswers:
    """Answers requests; keeps the processors of the models asked for last. A folder's content must not change."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        make_decoder("auto")  # imports it
        self._processors: OrderedDict[Path, tuple[DataProcessor, int]] = OrderedDict()
        self._kinds: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "preview": self.preview,
            "forward": lambda request: forward_step(Path(request["model"])),
        }

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request; never raises for what is wrong with a model, a sample or a clip."""
        kind = request["kind"]
        try:
            return {kind: self._kinds[kind](request)}
        # The edge of the process: whatever went wrong is the answer.
        except Exception as error:
            failure = as_failure(error)
            reason = failure.reason.value
            return {"failure": {"reason": reason, "message": failure.message, "next_step": failure.next_step}}

    def preview(self, request: dict[str, Any]) -> dict[str, Any]:
        """A preview as JSON values. Raises what training would raise for the sample, but not for its length."""
        sampling = TrainingSpec.from_dict({"sampling": request["sampling"]}).validate().sampling
        processor, token_limit = self._processor(Path(request["model"]))
        sample, split = _sample(request)
        inputs = encode_sample(
            processor, sample, sampling, lambda clip, wanted: decode_here(clip, wanted, request["decoder"])
        )
        preview, is_cut = describe(processor, inputs, max_frames=request["max_frames"], token_limit=token_limit)
        for frame in (frame for clip in preview["clips"] for frame in clip["frames"]):
            frame["jpeg"] = base64.b64encode(frame["jpeg"]).decode()
        warnings = list(_warnings(split, inputs.encoded.length, token_limit, is_cut))
        return {**preview, "sampling": asdict(sampling), "warnings": warnings}

    def _processor(self, folder: Path) -> tuple[DataProcessor, int]:
        if folder not in self._processors:
            config = check_model_folder(folder, needs_weights=False)
            # Without a limit: a sample that is too long is shown with a warning, where training would refuse it.
            self._processors[folder] = DataProcessor(load_processor(folder)), max_positions(config)
            while len(self._processors) > _HELD_PROCESSORS:
                self._processors.popitem(last=False)
        self._processors.move_to_end(folder)
        return self._processors[folder]


def _sample(request: dict[str, Any]) -> tuple[Sample, str]:
    """(the sample, its split by the name that the dataset has for it)."""
    row = sample_to_row(ParseDict(request["sample"], sample_pb2.Sample()))
    split = row["split"]
    # Rows of other splits never reach a trainer; they are shown as if they did, with a warning.
    return read_sample({**row, "split": split if split in KNOWN_SPLITS else "train"}, Path(request["dataset"])), split


def _warnings(split: str, length: int, token_limit: int, is_cut: bool) -> list[dict[str, str]]:
    warnings = []
    if token_limit and length > token_limit:
        what = f"the sample has {length} tokens, the model takes at most {token_limit}: training would refuse it"
        warnings.append(("SEQUENCE_TOO_LONG", what, "lower max_frames or max_pixels, or shorten the text"))
    if split not in _EVALUATED:
        what = f"the sample is of the split {split[:64]!r}, which is neither trained nor evaluated on"
        warnings.append(("SPLIT_NOT_TRAINED", what, "name the split train or eval in the annotation file"))
    if is_cut:
        what = "the text is too long to be shown in full; all counts are those of the whole"
        warnings.append(("TEXT_CUT", what, "nothing needs to be done"))
    return [{"reason": reason, "message": message, "remedy": remedy} for reason, message, remedy in warnings]
