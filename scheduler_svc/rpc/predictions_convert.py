"""Answers to held-out rows, from and to the contract."""

from __future__ import annotations

from collections.abc import Iterable

from reeltune.scheduler.v1 import prediction_pb2 as pb

from scheduler_svc.domain.job import clean_text
from scheduler_svc.domain.predictions import MAX_PREDICTIONS, MAX_TEXT_BYTES, Prediction, Predictions


def predictions_from_proto(message: pb.Predictions) -> Predictions:
    """Returns what a trainer tells; lists and texts that are too long are cut."""
    return Predictions(max(message.step, 0), _from_proto(message.best), _from_proto(message.worst))


def predictions_to_proto(predictions: Predictions) -> pb.Predictions:
    """Returns the contract's message."""
    return pb.Predictions(
        step=predictions.step, best=map(_to_proto, predictions.best), worst=map(_to_proto, predictions.worst)
    )


def _from_proto(messages: Iterable[pb.Prediction]) -> tuple[Prediction, ...]:
    return tuple(
        Prediction(
            sample_id=clean_text(each.sample_id, MAX_TEXT_BYTES),
            question=clean_text(each.question, MAX_TEXT_BYTES),
            expected=clean_text(each.expected, MAX_TEXT_BYTES),
            generated=clean_text(each.generated, MAX_TEXT_BYTES),
            loss=each.loss,
            is_cut=each.is_cut,
        )
        for each in list(messages)[:MAX_PREDICTIONS]
    )


def _to_proto(prediction: Prediction) -> pb.Prediction:
    return pb.Prediction(
        sample_id=prediction.sample_id,
        question=prediction.question,
        expected=prediction.expected,
        generated=prediction.generated,
        loss=prediction.loss,
        is_cut=prediction.is_cut,
    )
