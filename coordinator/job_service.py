"""``shoal.v1.JobService``: carries requests to the coordinator and its views back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

from shoal.v1 import job_service_pb2 as pb
from shoal.v1.job_service_pb2_grpc import JobServiceServicer

from ..common.views import Control
from ..common.wire_requests import decode_submit_request
from ..common.wire_views import OBJECT_STATUS, encode_job, encode_object, encode_submitted
from .api import CoordinatorApi
from .calls import caller_name
from .requests import id_token, next_token, page_size, reading, said


class JobService(JobServiceServicer):
    """Raises ShoalErrors: `calls.py` makes statuses of them."""

    def __init__(self, api: CoordinatorApi) -> None:
        self._api = api

    async def SubmitJob(self, request: pb.SubmitJobRequest, context: object) -> pb.SubmitJobResponse:
        with reading():
            wanted = decode_submit_request(request)
        return pb.SubmitJobResponse(jobs=map(encode_submitted, await self._api.submit(wanted, user=caller_name())))

    async def GetJob(self, request: pb.GetJobRequest, context: object) -> pb.GetJobResponse:
        return pb.GetJobResponse(job=encode_job(self._api.get_job(_job_id(request.job_id))))

    async def ListJobs(self, request: pb.ListJobsRequest, context: object) -> pb.ListJobsResponse:
        size = page_size(request.page_size)
        views = self._api.list_jobs(limit=size, after=request.page_token)
        return pb.ListJobsResponse(
            jobs=map(encode_job, views), next_page_token=next_token(views, size, lambda view: view.job_id)
        )

    async def WatchJob(self, request: pb.WatchJobRequest, context: object) -> AsyncIterator[pb.WatchJobResponse]:
        views = self._api.watch_job(_job_id(request.job_id))
        async with aclosing(cast("Any", views)):
            async for view in views:
                yield pb.WatchJobResponse(job=encode_job(view))

    async def ListObjects(self, request: pb.ListObjectsRequest, context: object) -> pb.ListObjectsResponse:
        job_id, size, after_id = _job_id(request.job_id), page_size(request.page_size), id_token(request.page_token)
        with reading():
            status = OBJECT_STATUS.optional(request.status, "ListObjectsRequest.status")
        views = await self._api.list_objects(job_id, status=status or "", after_id=after_id, limit=size)
        return pb.ListObjectsResponse(
            objects=map(encode_object, views), next_page_token=next_token(views, size, lambda view: view.object_id)
        )

    async def PauseJob(self, request: pb.PauseJobRequest, context: object) -> pb.PauseJobResponse:
        return pb.PauseJobResponse(job=await self._control(request.job_id, Control.PAUSE))

    async def ResumeJob(self, request: pb.ResumeJobRequest, context: object) -> pb.ResumeJobResponse:
        return pb.ResumeJobResponse(job=await self._control(request.job_id, Control.RESUME))

    async def CancelJob(self, request: pb.CancelJobRequest, context: object) -> pb.CancelJobResponse:
        return pb.CancelJobResponse(job=await self._control(request.job_id, Control.CANCEL))

    async def RetryJob(self, request: pb.RetryJobRequest, context: object) -> pb.RetryJobResponse:
        return pb.RetryJobResponse(job=await self._control(request.job_id, Control.RETRY))

    async def _control(self, job_id: str, action: Control) -> pb.Job:
        return encode_job(await self._api.control(_job_id(job_id), action))


def _job_id(job_id: str) -> str:
    return said(job_id, "job_id")
