from google.protobuf import timestamp_pb2 as _timestamp_pb2
from shoal.v1 import work_pb2 as _work_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATUS_UNSPECIFIED: _ClassVar[JobStatus]
    JOB_STATUS_PLANNING: _ClassVar[JobStatus]
    JOB_STATUS_PREPARING: _ClassVar[JobStatus]
    JOB_STATUS_RUNNING: _ClassVar[JobStatus]
    JOB_STATUS_FINALIZING: _ClassVar[JobStatus]
    JOB_STATUS_DONE: _ClassVar[JobStatus]
    JOB_STATUS_FAILED: _ClassVar[JobStatus]
    JOB_STATUS_CANCELLED: _ClassVar[JobStatus]

class ObjectStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OBJECT_STATUS_UNSPECIFIED: _ClassVar[ObjectStatus]
    OBJECT_STATUS_QUEUED: _ClassVar[ObjectStatus]
    OBJECT_STATUS_DONE: _ClassVar[ObjectStatus]
    OBJECT_STATUS_FAILED: _ClassVar[ObjectStatus]

class ActivePhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTIVE_PHASE_UNSPECIFIED: _ClassVar[ActivePhase]
    ACTIVE_PHASE_FETCHING: _ClassVar[ActivePhase]
    ACTIVE_PHASE_OPENING: _ClassVar[ActivePhase]
    ACTIVE_PHASE_RANGES: _ClassVar[ActivePhase]
    ACTIVE_PHASE_VERIFYING: _ClassVar[ActivePhase]

class ReplicaStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REPLICA_STATUS_UNSPECIFIED: _ClassVar[ReplicaStatus]
    REPLICA_STATUS_JOINING: _ClassVar[ReplicaStatus]
    REPLICA_STATUS_COPYING: _ClassVar[ReplicaStatus]
    REPLICA_STATUS_DONE: _ClassVar[ReplicaStatus]
    REPLICA_STATUS_FAILED: _ClassVar[ReplicaStatus]
    REPLICA_STATUS_LOST: _ClassVar[ReplicaStatus]
JOB_STATUS_UNSPECIFIED: JobStatus
JOB_STATUS_PLANNING: JobStatus
JOB_STATUS_PREPARING: JobStatus
JOB_STATUS_RUNNING: JobStatus
JOB_STATUS_FINALIZING: JobStatus
JOB_STATUS_DONE: JobStatus
JOB_STATUS_FAILED: JobStatus
JOB_STATUS_CANCELLED: JobStatus
OBJECT_STATUS_UNSPECIFIED: ObjectStatus
OBJECT_STATUS_QUEUED: ObjectStatus
OBJECT_STATUS_DONE: ObjectStatus
OBJECT_STATUS_FAILED: ObjectStatus
ACTIVE_PHASE_UNSPECIFIED: ActivePhase
ACTIVE_PHASE_FETCHING: ActivePhase
ACTIVE_PHASE_OPENING: ActivePhase
ACTIVE_PHASE_RANGES: ActivePhase
ACTIVE_PHASE_VERIFYING: ActivePhase
REPLICA_STATUS_UNSPECIFIED: ReplicaStatus
REPLICA_STATUS_JOINING: ReplicaStatus
REPLICA_STATUS_COPYING: ReplicaStatus
REPLICA_STATUS_DONE: ReplicaStatus
REPLICA_STATUS_FAILED: ReplicaStatus
REPLICA_STATUS_LOST: ReplicaStatus

class Job(_message.Message):
    __slots__ = ("job_id", "uri", "name", "status", "paused", "priority", "created_at", "ended_at", "destination", "revision", "commit", "objects_total", "objects_done", "objects_skipped", "objects_failed", "bytes_total", "bytes_done", "bytes_fetched", "bytes_arrived", "rate_bytes_per_s", "eta_s", "failure", "active", "delivery", "bytes_from_peers", "replicas", "rows_total", "rows_rejected", "tally", "rows_done", "rows_per_s", "nas", "agents", "agents_more")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_DONE_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FAILED_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FETCHED_FIELD_NUMBER: _ClassVar[int]
    BYTES_ARRIVED_FIELD_NUMBER: _ClassVar[int]
    RATE_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    ETA_S_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    BYTES_FROM_PEERS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    ROWS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ROWS_REJECTED_FIELD_NUMBER: _ClassVar[int]
    TALLY_FIELD_NUMBER: _ClassVar[int]
    ROWS_DONE_FIELD_NUMBER: _ClassVar[int]
    ROWS_PER_S_FIELD_NUMBER: _ClassVar[int]
    NAS_FIELD_NUMBER: _ClassVar[int]
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    AGENTS_MORE_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    uri: str
    name: str
    status: JobStatus
    paused: bool
    priority: int
    created_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    destination: str
    revision: str
    commit: str
    objects_total: int
    objects_done: int
    objects_skipped: int
    objects_failed: int
    bytes_total: int
    bytes_done: int
    bytes_fetched: int
    bytes_arrived: int
    rate_bytes_per_s: float
    eta_s: float
    failure: _work_pb2.Failure
    active: _containers.RepeatedCompositeFieldContainer[ActiveObject]
    delivery: _work_pb2.Delivery
    bytes_from_peers: int
    replicas: _containers.RepeatedCompositeFieldContainer[Replica]
    rows_total: int
    rows_rejected: int
    tally: _containers.RepeatedCompositeFieldContainer[_work_pb2.CodeCount]
    rows_done: int
    rows_per_s: float
    nas: _work_pb2.NasCounts
    agents: _containers.RepeatedCompositeFieldContainer[JobAgent]
    agents_more: int
    def __init__(self, job_id: _Optional[str] = ..., uri: _Optional[str] = ..., name: _Optional[str] = ..., status: _Optional[_Union[JobStatus, str]] = ..., paused: bool = ..., priority: _Optional[int] = ..., created_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., destination: _Optional[str] = ..., revision: _Optional[str] = ..., commit: _Optional[str] = ..., objects_total: _Optional[int] = ..., objects_done: _Optional[int] = ..., objects_skipped: _Optional[int] = ..., objects_failed: _Optional[int] = ..., bytes_total: _Optional[int] = ..., bytes_done: _Optional[int] = ..., bytes_fetched: _Optional[int] = ..., bytes_arrived: _Optional[int] = ..., rate_bytes_per_s: _Optional[float] = ..., eta_s: _Optional[float] = ..., failure: _Optional[_Union[_work_pb2.Failure, _Mapping]] = ..., active: _Optional[_Iterable[_Union[ActiveObject, _Mapping]]] = ..., delivery: _Optional[_Union[_work_pb2.Delivery, str]] = ..., bytes_from_peers: _Optional[int] = ..., replicas: _Optional[_Iterable[_Union[Replica, _Mapping]]] = ..., rows_total: _Optional[int] = ..., rows_rejected: _Optional[int] = ..., tally: _Optional[_Iterable[_Union[_work_pb2.CodeCount, _Mapping]]] = ..., rows_done: _Optional[int] = ..., rows_per_s: _Optional[float] = ..., nas: _Optional[_Union[_work_pb2.NasCounts, _Mapping]] = ..., agents: _Optional[_Iterable[_Union[JobAgent, _Mapping]]] = ..., agents_more: _Optional[int] = ...) -> None: ...

class JobAgent(_message.Message):
    __slots__ = ("agent_id", "name", "from_origin")
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FROM_ORIGIN_FIELD_NUMBER: _ClassVar[int]
    agent_id: str
    name: str
    from_origin: int
    def __init__(self, agent_id: _Optional[str] = ..., name: _Optional[str] = ..., from_origin: _Optional[int] = ...) -> None: ...

class Replica(_message.Message):
    __slots__ = ("agent_id", "name", "status", "bytes_done", "chunks_done", "from_origin", "from_peers", "failure")
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_DONE_FIELD_NUMBER: _ClassVar[int]
    FROM_ORIGIN_FIELD_NUMBER: _ClassVar[int]
    FROM_PEERS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    agent_id: str
    name: str
    status: ReplicaStatus
    bytes_done: int
    chunks_done: int
    from_origin: int
    from_peers: int
    failure: _work_pb2.Failure
    def __init__(self, agent_id: _Optional[str] = ..., name: _Optional[str] = ..., status: _Optional[_Union[ReplicaStatus, str]] = ..., bytes_done: _Optional[int] = ..., chunks_done: _Optional[int] = ..., from_origin: _Optional[int] = ..., from_peers: _Optional[int] = ..., failure: _Optional[_Union[_work_pb2.Failure, _Mapping]] = ...) -> None: ...

class ActiveObject(_message.Message):
    __slots__ = ("object_id", "path", "size", "done_bytes", "agents", "phase", "done")
    OBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DONE_BYTES_FIELD_NUMBER: _ClassVar[int]
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    object_id: int
    path: str
    size: int
    done_bytes: int
    agents: _containers.RepeatedScalarFieldContainer[str]
    phase: ActivePhase
    done: _containers.RepeatedCompositeFieldContainer[_work_pb2.Interval]
    def __init__(self, object_id: _Optional[int] = ..., path: _Optional[str] = ..., size: _Optional[int] = ..., done_bytes: _Optional[int] = ..., agents: _Optional[_Iterable[str]] = ..., phase: _Optional[_Union[ActivePhase, str]] = ..., done: _Optional[_Iterable[_Union[_work_pb2.Interval, _Mapping]]] = ...) -> None: ...

class JobObject(_message.Message):
    __slots__ = ("object_id", "path", "size", "status", "digest", "failures", "failure", "skipped", "agent")
    OBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    object_id: int
    path: str
    size: int
    status: ObjectStatus
    digest: str
    failures: int
    failure: _work_pb2.Failure
    skipped: bool
    agent: str
    def __init__(self, object_id: _Optional[int] = ..., path: _Optional[str] = ..., size: _Optional[int] = ..., status: _Optional[_Union[ObjectStatus, str]] = ..., digest: _Optional[str] = ..., failures: _Optional[int] = ..., failure: _Optional[_Union[_work_pb2.Failure, _Mapping]] = ..., skipped: bool = ..., agent: _Optional[str] = ...) -> None: ...

class SubmitJobRequest(_message.Message):
    __slots__ = ("uris", "destination", "layout", "delivery", "include", "exclude", "revision", "force", "sha256", "priority", "name", "profile", "unpack", "unpack_format", "collect", "tool", "nas", "commit")
    URIS_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    UNPACK_FIELD_NUMBER: _ClassVar[int]
    UNPACK_FORMAT_FIELD_NUMBER: _ClassVar[int]
    COLLECT_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    NAS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    uris: _containers.RepeatedScalarFieldContainer[str]
    destination: str
    layout: _work_pb2.Layout
    delivery: _work_pb2.Delivery
    include: _containers.RepeatedScalarFieldContainer[str]
    exclude: _containers.RepeatedScalarFieldContainer[str]
    revision: str
    force: bool
    sha256: str
    priority: int
    name: str
    profile: str
    unpack: str
    unpack_format: str
    collect: _work_pb2.CollectSpec
    tool: _work_pb2.ToolSpec
    nas: str
    commit: str
    def __init__(self, uris: _Optional[_Iterable[str]] = ..., destination: _Optional[str] = ..., layout: _Optional[_Union[_work_pb2.Layout, str]] = ..., delivery: _Optional[_Union[_work_pb2.Delivery, str]] = ..., include: _Optional[_Iterable[str]] = ..., exclude: _Optional[_Iterable[str]] = ..., revision: _Optional[str] = ..., force: bool = ..., sha256: _Optional[str] = ..., priority: _Optional[int] = ..., name: _Optional[str] = ..., profile: _Optional[str] = ..., unpack: _Optional[str] = ..., unpack_format: _Optional[str] = ..., collect: _Optional[_Union[_work_pb2.CollectSpec, _Mapping]] = ..., tool: _Optional[_Union[_work_pb2.ToolSpec, _Mapping]] = ..., nas: _Optional[str] = ..., commit: _Optional[str] = ...) -> None: ...

class SubmittedJob(_message.Message):
    __slots__ = ("job", "created")
    JOB_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    job: Job
    created: bool
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ..., created: bool = ...) -> None: ...

class SubmitJobResponse(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[SubmittedJob]
    def __init__(self, jobs: _Optional[_Iterable[_Union[SubmittedJob, _Mapping]]] = ...) -> None: ...

class GetJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class GetJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs", "next_page_token")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    next_page_token: str
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class WatchJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class ListObjectsRequest(_message.Message):
    __slots__ = ("job_id", "status", "page_size", "page_token")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    status: ObjectStatus
    page_size: int
    page_token: str
    def __init__(self, job_id: _Optional[str] = ..., status: _Optional[_Union[ObjectStatus, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListObjectsResponse(_message.Message):
    __slots__ = ("objects", "next_page_token")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[JobObject]
    next_page_token: str
    def __init__(self, objects: _Optional[_Iterable[_Union[JobObject, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class PauseJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class PauseJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class ResumeJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class ResumeJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class CancelJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class CancelJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class RetryJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class RetryJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...
