"""The catalog, asked with the user's own token: what they may not read, they cannot train from."""

from __future__ import annotations

import asyncio

import grpc
from reeltune.catalog.v1 import (
    dataset_pb2,
    dataset_service_pb2,
    dataset_service_pb2_grpc,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)

from meshkit.batching import SharedCalls
from meshkit.rpc.client import bearer
from meshkit.rpc.status import failure_from_rpc_error
from scheduler_svc.clients.catalog_shapes import model_shape_from_proto
from scheduler_svc.clients.dataset_shapes import DatasetShapes
from scheduler_svc.domain.errors import DatasetNotFound, DatasetNotReady, ModelNotFound, ModelNotReady
from scheduler_svc.domain.parameters import DatasetFacts, ModelFacts

_GOOD_FOR_SECONDS = 0.1
"""How old an answer may be. Who deletes a model and submits within that time may still be told that the job waits; the
job then fails as if the model had been deleted a moment later, which nobody can prevent."""
_PASSED_ON = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


class Catalog:
    """Models and datasets as a user sees them.

    A user who submits many jobs at once asks the same again and again: questions with the same token share one rpc, and
    what is READY is believed for a moment.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._models = model_service_pb2_grpc.ModelServiceStub(channel)
        self._datasets = dataset_service_pb2_grpc.DatasetServiceStub(channel)
        self._model_calls = SharedCalls(self._get_model, good_for_seconds=_GOOD_FOR_SECONDS)
        self._dataset_calls = SharedCalls(self._get_dataset, good_for_seconds=_GOOD_FOR_SECONDS)
        self.shapes = DatasetShapes(channel)

    def get_model(self, model_id: str, token: str) -> asyncio.Future[ModelFacts]:
        """Asks for a model that is READY.

        Raises:
            ModelNotFound: it is not there, or not for this user.
            ModelNotReady: it cannot be trained from (yet).
        """
        return self._model_calls.ask((model_id, token))

    def get_dataset(self, dataset_id: str, token: str) -> asyncio.Future[DatasetFacts]:
        """Asks for a dataset that is READY.

        Raises:
            DatasetNotFound: it is not there, or not for this user.
            DatasetNotReady: it cannot be trained from (yet).
        """
        return self._dataset_calls.ask((dataset_id, token))

    async def get_owner(self, entry_id: str, token: str) -> str:
        """Returns whose a dataset or model is, in whatever state.

        Raises:
            DatasetNotFound, ModelNotFound: it is not there, or not for this user.
        """
        is_dataset = entry_id.startswith("ds_")
        try:
            if is_dataset:
                dataset_request = dataset_service_pb2.GetDatasetRequest(dataset_id=entry_id)
                dataset = await self._datasets.GetDataset(dataset_request, metadata=bearer(token))
                return dataset.dataset.owner_id
            model_request = model_service_pb2.GetModelRequest(model_id=entry_id)
            return (await self._models.GetModel(model_request, metadata=bearer(token))).model.owner_id
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise DatasetNotFound(entry_id) if is_dataset else ModelNotFound(entry_id) from error
            raise _translated(error) from error

    async def _get_model(self, key: tuple[str, str]) -> ModelFacts:
        model_id, token = key
        request = model_service_pb2.GetModelRequest(model_id=model_id)
        try:
            model = (await self._models.GetModel(request, metadata=bearer(token))).model
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise ModelNotFound(model_id) from error
            raise _translated(error) from error
        if model.state != model_pb2.MODEL_STATE_READY:
            raise ModelNotReady(model_id, _state_name(model_pb2.ModelState.Name(model.state)))
        return ModelFacts(
            model_id,
            model.facts.max_frames,
            model.facts.has_video_processor,
            shape=model_shape_from_proto(model.facts),
        )

    async def _get_dataset(self, key: tuple[str, str]) -> DatasetFacts:
        dataset_id, token = key
        request = dataset_service_pb2.GetDatasetRequest(dataset_id=dataset_id)
        try:
            dataset = (await self._datasets.GetDataset(request, metadata=bearer(token))).dataset
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise DatasetNotFound(dataset_id) from error
            raise _translated(error) from error
        if dataset.state != dataset_pb2.DATASET_STATE_READY:
            raise DatasetNotReady(dataset_id, _state_name(dataset_pb2.DatasetState.Name(dataset.state)))
        counts = dataset.counts
        return DatasetFacts(
            dataset_id,
            counts.train_rows,
            counts.eval_rows,
            untrained_rows=counts.rows - counts.train_rows,
            version=dataset.version,
        )


def _translated(error: grpc.aio.AioRpcError) -> Exception:
    # A token that ends between our check and the catalog's is the caller's business; the rest is ours.
    return failure_from_rpc_error(error) if error.code() in _PASSED_ON else error


def _state_name(name: str) -> str:
    return name.partition("_STATE_")[2]
