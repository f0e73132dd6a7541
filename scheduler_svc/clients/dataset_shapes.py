"""What the rows of datasets show, from the catalog: asked once, for a READY dataset never changes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextvars import Context

import grpc
import structlog
from reeltune.catalog.v1 import sample_service_pb2, sample_service_pb2_grpc

from meshkit.rpc.client import bearer
from scheduler_svc.clients.catalog_shapes import dataset_shape_from_proto
from scheduler_svc.domain.estimate.facts import DatasetShape
from scheduler_svc.domain.parameters import DatasetFacts

_REMEMBERED = 1000
_ASK_AGAIN_SECONDS = 30.0
_COUNTING_SECONDS = 60.0
"""For the catalog to count a large dataset: whoever asked does not wait so long."""


class DatasetShapes:
    """Shapes of datasets that the caller was found to be allowed to read."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._samples = sample_service_pb2_grpc.SampleServiceStub(channel)
        self._known: OrderedDict[str, DatasetShape] = OrderedDict()
        self._asked: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, float] = {}

    def known(self, dataset_id: str) -> DatasetShape | None:
        """Returns what is known already."""
        return self._known.get(dataset_id)

    async def get(self, dataset: DatasetFacts, token: str, *, wait_seconds: float) -> DatasetShape | None:
        """Returns the shape of a dataset; None where the catalog does not tell it in time.

        The catalog counts the rows of a large dataset for seconds: whoever does not wait for it goes without, and who
        comes later finds it.
        """
        if dataset.id not in self._known and self._may_ask(dataset.id):
            # In a context of its own: the deadline of whoever comes first holds for nobody else.
            asking = asyncio.get_running_loop().create_task(self._ask(dataset, token), context=Context())
            self._asked[dataset.id] = asking
        if dataset.id in self._asked:
            await asyncio.wait({self._asked[dataset.id]}, timeout=wait_seconds)
        return self._known.get(dataset.id)

    def _may_ask(self, dataset_id: str) -> bool:
        now = asyncio.get_running_loop().time()
        return dataset_id not in self._asked and now >= self._not_before.get(dataset_id, 0.0)

    async def _ask(self, dataset: DatasetFacts, token: str) -> None:
        try:
            request = sample_service_pb2.GetDatasetStatisticsRequest(dataset_id=dataset.id)
            response = await self._samples.GetDatasetStatistics(
                request, metadata=bearer(token), timeout=_COUNTING_SECONDS
            )
            self._known[dataset.id] = dataset_shape_from_proto(response.statistics, dataset.train_rows)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        except grpc.aio.AioRpcError as error:
            # What is not known refuses nothing; it is only not asked for with every job.
            structlog.get_logger().warning("dataset.shape_unknown", dataset_id=dataset.id, code=error.code().name)
            now = asyncio.get_running_loop().time()
            self._not_before = {key: until for key, until in self._not_before.items() if until > now}
            self._not_before[dataset.id] = now + _ASK_AGAIN_SECONDS
        finally:
            del self._asked[dataset.id]
