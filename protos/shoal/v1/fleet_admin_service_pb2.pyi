from google.protobuf import timestamp_pb2 as _timestamp_pb2
from shoal.v1 import job_service_pb2 as _job_service_pb2
from shoal.v1 import work_pb2 as _work_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AgentStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AGENT_STATUS_UNSPECIFIED: _ClassVar[AgentStatus]
    AGENT_STATUS_ALIVE: _ClassVar[AgentStatus]
    AGENT_STATUS_LATE: _ClassVar[AgentStatus]
    AGENT_STATUS_LOST: _ClassVar[AgentStatus]
    AGENT_STATUS_DRAINING: _ClassVar[AgentStatus]
    AGENT_STATUS_LEFT: _ClassVar[AgentStatus]

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_AGENT: _ClassVar[Role]
    ROLE_ADMIN: _ClassVar[Role]

class HostCondition(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HOST_CONDITION_UNSPECIFIED: _ClassVar[HostCondition]
    HOST_CONDITION_OPEN: _ClassVar[HostCondition]
    HOST_CONDITION_HALF_OPEN: _ClassVar[HostCondition]
    HOST_CONDITION_BLOCKED: _ClassVar[HostCondition]
    HOST_CONDITION_PARKED: _ClassVar[HostCondition]
AGENT_STATUS_UNSPECIFIED: AgentStatus
AGENT_STATUS_ALIVE: AgentStatus
AGENT_STATUS_LATE: AgentStatus
AGENT_STATUS_LOST: AgentStatus
AGENT_STATUS_DRAINING: AgentStatus
AGENT_STATUS_LEFT: AgentStatus
ROLE_UNSPECIFIED: Role
ROLE_AGENT: Role
ROLE_ADMIN: Role
HOST_CONDITION_UNSPECIFIED: HostCondition
HOST_CONDITION_OPEN: HostCondition
HOST_CONDITION_HALF_OPEN: HostCondition
HOST_CONDITION_BLOCKED: HostCondition
HOST_CONDITION_PARKED: HostCondition

class Agent(_message.Message):
    __slots__ = ("agent_id", "name", "status", "version", "zone", "capacity", "units", "bytes_held", "rate_bytes_per_s", "objects_done", "bytes_done", "memory_bytes", "connected_s", "silent_s", "peer_address", "sent_bytes", "bad_chunks", "cut_off", "nas", "disk_free_bytes", "disk_total_bytes")
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    BYTES_HELD_FIELD_NUMBER: _ClassVar[int]
    RATE_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_S_FIELD_NUMBER: _ClassVar[int]
    SILENT_S_FIELD_NUMBER: _ClassVar[int]
    PEER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    BAD_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    CUT_OFF_FIELD_NUMBER: _ClassVar[int]
    NAS_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    agent_id: str
    name: str
    status: AgentStatus
    version: str
    zone: str
    capacity: _work_pb2.Capacity
    units: int
    bytes_held: int
    rate_bytes_per_s: float
    objects_done: int
    bytes_done: int
    memory_bytes: int
    connected_s: float
    silent_s: float
    peer_address: str
    sent_bytes: int
    bad_chunks: int
    cut_off: bool
    nas: _work_pb2.NasCounts
    disk_free_bytes: int
    disk_total_bytes: int
    def __init__(self, agent_id: _Optional[str] = ..., name: _Optional[str] = ..., status: _Optional[_Union[AgentStatus, str]] = ..., version: _Optional[str] = ..., zone: _Optional[str] = ..., capacity: _Optional[_Union[_work_pb2.Capacity, _Mapping]] = ..., units: _Optional[int] = ..., bytes_held: _Optional[int] = ..., rate_bytes_per_s: _Optional[float] = ..., objects_done: _Optional[int] = ..., bytes_done: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., connected_s: _Optional[float] = ..., silent_s: _Optional[float] = ..., peer_address: _Optional[str] = ..., sent_bytes: _Optional[int] = ..., bad_chunks: _Optional[int] = ..., cut_off: bool = ..., nas: _Optional[_Union[_work_pb2.NasCounts, _Mapping]] = ..., disk_free_bytes: _Optional[int] = ..., disk_total_bytes: _Optional[int] = ...) -> None: ...

class Host(_message.Message):
    __slots__ = ("host", "requests_per_s", "bytes_per_s", "blocked_s", "throttled", "errors", "connections", "condition", "rate_now", "rate_measured", "last_status", "ok", "timeouts", "unreachable", "refused", "crawl_delay_s", "shares")
    HOST_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_S_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_S_FIELD_NUMBER: _ClassVar[int]
    THROTTLED_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    RATE_NOW_FIELD_NUMBER: _ClassVar[int]
    RATE_MEASURED_FIELD_NUMBER: _ClassVar[int]
    LAST_STATUS_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    TIMEOUTS_FIELD_NUMBER: _ClassVar[int]
    UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    CRAWL_DELAY_S_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    host: str
    requests_per_s: float
    bytes_per_s: float
    blocked_s: float
    throttled: int
    errors: int
    connections: int
    condition: HostCondition
    rate_now: float
    rate_measured: float
    last_status: int
    ok: int
    timeouts: int
    unreachable: int
    refused: int
    crawl_delay_s: float
    shares: _containers.RepeatedCompositeFieldContainer[HostShare]
    def __init__(self, host: _Optional[str] = ..., requests_per_s: _Optional[float] = ..., bytes_per_s: _Optional[float] = ..., blocked_s: _Optional[float] = ..., throttled: _Optional[int] = ..., errors: _Optional[int] = ..., connections: _Optional[int] = ..., condition: _Optional[_Union[HostCondition, str]] = ..., rate_now: _Optional[float] = ..., rate_measured: _Optional[float] = ..., last_status: _Optional[int] = ..., ok: _Optional[int] = ..., timeouts: _Optional[int] = ..., unreachable: _Optional[int] = ..., refused: _Optional[int] = ..., crawl_delay_s: _Optional[float] = ..., shares: _Optional[_Iterable[_Union[HostShare, _Mapping]]] = ...) -> None: ...

class HostShare(_message.Message):
    __slots__ = ("agent", "requests_per_s", "bytes_per_s", "connections", "probe")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_S_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    agent: str
    requests_per_s: float
    bytes_per_s: float
    connections: int
    probe: bool
    def __init__(self, agent: _Optional[str] = ..., requests_per_s: _Optional[float] = ..., bytes_per_s: _Optional[float] = ..., connections: _Optional[int] = ..., probe: bool = ...) -> None: ...

class QueuedJob(_message.Message):
    __slots__ = ("job_id", "uri", "status", "name", "paused", "priority", "objects_waiting", "bytes_waiting", "units_leased")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_WAITING_FIELD_NUMBER: _ClassVar[int]
    BYTES_WAITING_FIELD_NUMBER: _ClassVar[int]
    UNITS_LEASED_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    uri: str
    status: _job_service_pb2.JobStatus
    name: str
    paused: bool
    priority: int
    objects_waiting: int
    bytes_waiting: int
    units_leased: int
    def __init__(self, job_id: _Optional[str] = ..., uri: _Optional[str] = ..., status: _Optional[_Union[_job_service_pb2.JobStatus, str]] = ..., name: _Optional[str] = ..., paused: bool = ..., priority: _Optional[int] = ..., objects_waiting: _Optional[int] = ..., bytes_waiting: _Optional[int] = ..., units_leased: _Optional[int] = ...) -> None: ...

class Fleet(_message.Message):
    __slots__ = ("version", "incarnation", "uptime_s", "agents_alive", "agents_late", "agents_lost", "jobs_active", "jobs_ended", "objects_waiting", "bytes_waiting", "units_leased", "rate_bytes_per_s", "warnings", "nas", "epoch_s")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    AGENTS_ALIVE_FIELD_NUMBER: _ClassVar[int]
    AGENTS_LATE_FIELD_NUMBER: _ClassVar[int]
    AGENTS_LOST_FIELD_NUMBER: _ClassVar[int]
    JOBS_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    JOBS_ENDED_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_WAITING_FIELD_NUMBER: _ClassVar[int]
    BYTES_WAITING_FIELD_NUMBER: _ClassVar[int]
    UNITS_LEASED_FIELD_NUMBER: _ClassVar[int]
    RATE_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    NAS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_S_FIELD_NUMBER: _ClassVar[int]
    version: str
    incarnation: int
    uptime_s: float
    agents_alive: int
    agents_late: int
    agents_lost: int
    jobs_active: int
    jobs_ended: int
    objects_waiting: int
    bytes_waiting: int
    units_leased: int
    rate_bytes_per_s: float
    warnings: _containers.RepeatedScalarFieldContainer[str]
    nas: _work_pb2.NasCounts
    epoch_s: float
    def __init__(self, version: _Optional[str] = ..., incarnation: _Optional[int] = ..., uptime_s: _Optional[float] = ..., agents_alive: _Optional[int] = ..., agents_late: _Optional[int] = ..., agents_lost: _Optional[int] = ..., jobs_active: _Optional[int] = ..., jobs_ended: _Optional[int] = ..., objects_waiting: _Optional[int] = ..., bytes_waiting: _Optional[int] = ..., units_leased: _Optional[int] = ..., rate_bytes_per_s: _Optional[float] = ..., warnings: _Optional[_Iterable[str]] = ..., nas: _Optional[_Union[_work_pb2.NasCounts, _Mapping]] = ..., epoch_s: _Optional[float] = ...) -> None: ...

class Token(_message.Message):
    __slots__ = ("token_id", "role", "name", "created_at", "expires_at")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    role: Role
    name: str
    created_at: _timestamp_pb2.Timestamp
    expires_at: _timestamp_pb2.Timestamp
    def __init__(self, token_id: _Optional[str] = ..., role: _Optional[_Union[Role, str]] = ..., name: _Optional[str] = ..., created_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., expires_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetFleetRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetFleetResponse(_message.Message):
    __slots__ = ("fleet",)
    FLEET_FIELD_NUMBER: _ClassVar[int]
    fleet: Fleet
    def __init__(self, fleet: _Optional[_Union[Fleet, _Mapping]] = ...) -> None: ...

class ListAgentsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListAgentsResponse(_message.Message):
    __slots__ = ("agents",)
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    agents: _containers.RepeatedCompositeFieldContainer[Agent]
    def __init__(self, agents: _Optional[_Iterable[_Union[Agent, _Mapping]]] = ...) -> None: ...

class DrainAgentRequest(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: str
    def __init__(self, agent: _Optional[str] = ...) -> None: ...

class DrainAgentResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetQueueRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetQueueResponse(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[QueuedJob]
    def __init__(self, jobs: _Optional[_Iterable[_Union[QueuedJob, _Mapping]]] = ...) -> None: ...

class ListHostsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListHostsResponse(_message.Message):
    __slots__ = ("hosts",)
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    hosts: _containers.RepeatedCompositeFieldContainer[Host]
    def __init__(self, hosts: _Optional[_Iterable[_Union[Host, _Mapping]]] = ...) -> None: ...

class SetHostPolicyRequest(_message.Message):
    __slots__ = ("host", "requests_per_s", "bytes_per_s", "connections")
    HOST_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_S_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    host: str
    requests_per_s: float
    bytes_per_s: float
    connections: int
    def __init__(self, host: _Optional[str] = ..., requests_per_s: _Optional[float] = ..., bytes_per_s: _Optional[float] = ..., connections: _Optional[int] = ...) -> None: ...

class SetHostPolicyResponse(_message.Message):
    __slots__ = ("host",)
    HOST_FIELD_NUMBER: _ClassVar[int]
    host: Host
    def __init__(self, host: _Optional[_Union[Host, _Mapping]] = ...) -> None: ...

class CreateTokenRequest(_message.Message):
    __slots__ = ("role", "name", "expires_s")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_S_FIELD_NUMBER: _ClassVar[int]
    role: Role
    name: str
    expires_s: float
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., name: _Optional[str] = ..., expires_s: _Optional[float] = ...) -> None: ...

class CreateTokenResponse(_message.Message):
    __slots__ = ("secret", "token")
    SECRET_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    secret: str
    token: Token
    def __init__(self, secret: _Optional[str] = ..., token: _Optional[_Union[Token, _Mapping]] = ...) -> None: ...

class ListTokensRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListTokensResponse(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[Token]
    def __init__(self, tokens: _Optional[_Iterable[_Union[Token, _Mapping]]] = ...) -> None: ...

class RotateTokenRequest(_message.Message):
    __slots__ = ("token_id", "grace_s", "expires_s")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    GRACE_S_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_S_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    grace_s: float
    expires_s: float
    def __init__(self, token_id: _Optional[str] = ..., grace_s: _Optional[float] = ..., expires_s: _Optional[float] = ...) -> None: ...

class RotateTokenResponse(_message.Message):
    __slots__ = ("secret", "token")
    SECRET_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    secret: str
    token: Token
    def __init__(self, secret: _Optional[str] = ..., token: _Optional[_Union[Token, _Mapping]] = ...) -> None: ...

class RevokeTokenRequest(_message.Message):
    __slots__ = ("token_id",)
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    def __init__(self, token_id: _Optional[str] = ...) -> None: ...

class RevokeTokenResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BackupStateRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BackupStateResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...
