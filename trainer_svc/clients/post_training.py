"""Parameters of evaluations and merges, in the fields of the training library's specifications."""

from __future__ import annotations

from typing import Any

from reeltune.scheduler.v1 import evaluation_pb2, merge_pb2
from reeltune.scheduler.v1 import post_training_pb2 as pb

from trainer_svc.clients.enum_names import known, names_of

_CONTROLS = names_of(evaluation_pb2.EvaluationControl)
_WEIGHTS = names_of(merge_pb2.MergeWeights, unspecified="dequantized")


def evaluation_from_proto(post_training: pb.PostTrainingParameters) -> dict[str, Any] | None:
    """`EvaluationSpec` fields, and `max_rows`; None for a job that is no evaluation."""
    if not post_training.HasField("evaluation"):
        return None
    evaluation = post_training.evaluation
    return {
        "split": evaluation.split,
        "max_rows": evaluation.max_rows,
        "max_new_tokens": evaluation.max_new_tokens,
        "temperature": evaluation.temperature,
        "seed": evaluation.seed,
        "controls": [known(_CONTROLS, control, "evaluation.controls").upper() for control in evaluation.controls],
    }


def merge_from_proto(post_training: pb.PostTrainingParameters) -> dict[str, Any] | None:
    """`MergeSpec` fields, and `check_rows`; None for a job that is no merge."""
    if not post_training.HasField("merge"):
        return None
    merge = post_training.merge
    return {"weights": known(_WEIGHTS, merge.weights, "merge.weights").upper(), "check_rows": merge.check_rows}
