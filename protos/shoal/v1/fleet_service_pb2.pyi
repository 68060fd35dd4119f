from shoal.v1 import swarm_pb2 as _swarm_pb2
from shoal.v1 import work_pb2 as _work_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionRequest(_message.Message):
    __slots__ = ("hello", "heartbeat", "results", "goodbye", "swarm_inventory", "swarm_report")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    SWARM_INVENTORY_FIELD_NUMBER: _ClassVar[int]
    SWARM_REPORT_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    heartbeat: Heartbeat
    results: Results
    goodbye: Goodbye
    swarm_inventory: _swarm_pb2.SwarmInventory
    swarm_report: _swarm_pb2.SwarmReport
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., results: _Optional[_Union[Results, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., swarm_inventory: _Optional[_Union[_swarm_pb2.SwarmInventory, _Mapping]] = ..., swarm_report: _Optional[_Union[_swarm_pb2.SwarmReport, _Mapping]] = ...) -> None: ...

class SessionResponse(_message.Message):
    __slots__ = ("welcome", "heartbeat_ack", "grants", "acks", "revoke", "budgets", "drain", "swarm_orders")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_ACK_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    REVOKE_FIELD_NUMBER: _ClassVar[int]
    YIELD_FIELD_NUMBER: _ClassVar[int]
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    SWARM_ORDERS_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    heartbeat_ack: HeartbeatAck
    grants: Grants
    acks: Acks
    revoke: Revoke
    budgets: Budgets
    drain: Drain
    swarm_orders: _swarm_pb2.SwarmOrders
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., heartbeat_ack: _Optional[_Union[HeartbeatAck, _Mapping]] = ..., grants: _Optional[_Union[Grants, _Mapping]] = ..., acks: _Optional[_Union[Acks, _Mapping]] = ..., revoke: _Optional[_Union[Revoke, _Mapping]] = ..., budgets: _Optional[_Union[Budgets, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., swarm_orders: _Optional[_Union[_swarm_pb2.SwarmOrders, _Mapping]] = ..., **kwargs) -> None: ...

class Hello(_message.Message):
    __slots__ = ("agent_id", "name", "version", "capacity", "held", "results", "zone", "peer", "budgets_version", "challenge")
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    BUDGETS_VERSION_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    agent_id: str
    name: str
    version: str
    capacity: _work_pb2.Capacity
    held: _containers.RepeatedCompositeFieldContainer[_work_pb2.LeaseRef]
    results: _containers.RepeatedCompositeFieldContainer[_work_pb2.Result]
    zone: str
    peer: _swarm_pb2.PeerOffer
    budgets_version: int
    challenge: str
    def __init__(self, agent_id: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., capacity: _Optional[_Union[_work_pb2.Capacity, _Mapping]] = ..., held: _Optional[_Iterable[_Union[_work_pb2.LeaseRef, _Mapping]]] = ..., results: _Optional[_Iterable[_Union[_work_pb2.Result, _Mapping]]] = ..., zone: _Optional[str] = ..., peer: _Optional[_Union[_swarm_pb2.PeerOffer, _Mapping]] = ..., budgets_version: _Optional[int] = ..., challenge: _Optional[str] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("seq", "held", "progress", "hosts", "capacity", "memory", "sent", "budgets_version", "lapsed_version", "nas", "disk_free", "disk_total")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    BUDGETS_VERSION_FIELD_NUMBER: _ClassVar[int]
    LAPSED_VERSION_FIELD_NUMBER: _ClassVar[int]
    NAS_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_FIELD_NUMBER: _ClassVar[int]
    DISK_TOTAL_FIELD_NUMBER: _ClassVar[int]
    seq: int
    held: _containers.RepeatedCompositeFieldContainer[_work_pb2.LeaseRef]
    progress: _containers.RepeatedCompositeFieldContainer[_work_pb2.Progress]
    hosts: _containers.RepeatedCompositeFieldContainer[_work_pb2.HostObservation]
    capacity: _work_pb2.Capacity
    memory: int
    sent: int
    budgets_version: int
    lapsed_version: int
    nas: _work_pb2.NasReport
    disk_free: int
    disk_total: int
    def __init__(self, seq: _Optional[int] = ..., held: _Optional[_Iterable[_Union[_work_pb2.LeaseRef, _Mapping]]] = ..., progress: _Optional[_Iterable[_Union[_work_pb2.Progress, _Mapping]]] = ..., hosts: _Optional[_Iterable[_Union[_work_pb2.HostObservation, _Mapping]]] = ..., capacity: _Optional[_Union[_work_pb2.Capacity, _Mapping]] = ..., memory: _Optional[int] = ..., sent: _Optional[int] = ..., budgets_version: _Optional[int] = ..., lapsed_version: _Optional[int] = ..., nas: _Optional[_Union[_work_pb2.NasReport, _Mapping]] = ..., disk_free: _Optional[int] = ..., disk_total: _Optional[int] = ...) -> None: ...

class Results(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[_work_pb2.Result]
    def __init__(self, results: _Optional[_Iterable[_Union[_work_pb2.Result, _Mapping]]] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("incarnation", "heartbeat_s", "lease_ttl_s", "fenced", "peer_key", "epoch_s", "share_s")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_S_FIELD_NUMBER: _ClassVar[int]
    LEASE_TTL_S_FIELD_NUMBER: _ClassVar[int]
    FENCED_FIELD_NUMBER: _ClassVar[int]
    PEER_KEY_FIELD_NUMBER: _ClassVar[int]
    EPOCH_S_FIELD_NUMBER: _ClassVar[int]
    SHARE_S_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    heartbeat_s: float
    lease_ttl_s: float
    fenced: _containers.RepeatedCompositeFieldContainer[_work_pb2.LeaseRef]
    peer_key: bytes
    epoch_s: float
    share_s: float
    def __init__(self, incarnation: _Optional[int] = ..., heartbeat_s: _Optional[float] = ..., lease_ttl_s: _Optional[float] = ..., fenced: _Optional[_Iterable[_Union[_work_pb2.LeaseRef, _Mapping]]] = ..., peer_key: _Optional[bytes] = ..., epoch_s: _Optional[float] = ..., share_s: _Optional[float] = ...) -> None: ...

class HeartbeatAck(_message.Message):
    __slots__ = ("seq",)
    SEQ_FIELD_NUMBER: _ClassVar[int]
    seq: int
    def __init__(self, seq: _Optional[int] = ...) -> None: ...

class Grants(_message.Message):
    __slots__ = ("leases", "jobs")
    LEASES_FIELD_NUMBER: _ClassVar[int]
    JOBS_FIELD_NUMBER: _ClassVar[int]
    leases: _containers.RepeatedCompositeFieldContainer[_work_pb2.Lease]
    jobs: _containers.RepeatedCompositeFieldContainer[_work_pb2.JobSpec]
    def __init__(self, leases: _Optional[_Iterable[_Union[_work_pb2.Lease, _Mapping]]] = ..., jobs: _Optional[_Iterable[_Union[_work_pb2.JobSpec, _Mapping]]] = ...) -> None: ...

class Acks(_message.Message):
    __slots__ = ("acks",)
    ACKS_FIELD_NUMBER: _ClassVar[int]
    acks: _containers.RepeatedCompositeFieldContainer[_work_pb2.Ack]
    def __init__(self, acks: _Optional[_Iterable[_Union[_work_pb2.Ack, _Mapping]]] = ...) -> None: ...

class Revoke(_message.Message):
    __slots__ = ("leases",)
    LEASES_FIELD_NUMBER: _ClassVar[int]
    leases: _containers.RepeatedCompositeFieldContainer[_work_pb2.LeaseRef]
    def __init__(self, leases: _Optional[_Iterable[_Union[_work_pb2.LeaseRef, _Mapping]]] = ...) -> None: ...

class Yield(_message.Message):
    __slots__ = ("leases",)
    LEASES_FIELD_NUMBER: _ClassVar[int]
    leases: _containers.RepeatedCompositeFieldContainer[_work_pb2.LeaseRef]
    def __init__(self, leases: _Optional[_Iterable[_Union[_work_pb2.LeaseRef, _Mapping]]] = ...) -> None: ...

class Budgets(_message.Message):
    __slots__ = ("budgets", "version")
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    budgets: _containers.RepeatedCompositeFieldContainer[_work_pb2.HostBudget]
    version: int
    def __init__(self, budgets: _Optional[_Iterable[_Union[_work_pb2.HostBudget, _Mapping]]] = ..., version: _Optional[int] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ("reason", "reconnect")
    REASON_FIELD_NUMBER: _ClassVar[int]
    RECONNECT_FIELD_NUMBER: _ClassVar[int]
    reason: str
    reconnect: bool
    def __init__(self, reason: _Optional[str] = ..., reconnect: bool = ...) -> None: ...

class ListManifestRequest(_message.Message):
    __slots__ = ("job_id", "page_size", "page_token", "unfinished_too")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    UNFINISHED_TOO_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    page_size: int
    page_token: str
    unfinished_too: bool
    def __init__(self, job_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., unfinished_too: bool = ...) -> None: ...

class ListManifestResponse(_message.Message):
    __slots__ = ("objects", "next_page_token")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[_work_pb2.ObjectSpec]
    next_page_token: str
    def __init__(self, objects: _Optional[_Iterable[_Union[_work_pb2.ObjectSpec, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class SignObjectsRequest(_message.Message):
    __slots__ = ("job_id", "object_ids")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    OBJECT_IDS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    object_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, job_id: _Optional[str] = ..., object_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class SignedUrl(_message.Message):
    __slots__ = ("object_id", "url", "valid_s")
    OBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    VALID_S_FIELD_NUMBER: _ClassVar[int]
    object_id: int
    url: str
    valid_s: float
    def __init__(self, object_id: _Optional[int] = ..., url: _Optional[str] = ..., valid_s: _Optional[float] = ...) -> None: ...

class SignObjectsResponse(_message.Message):
    __slots__ = ("urls",)
    URLS_FIELD_NUMBER: _ClassVar[int]
    urls: _containers.RepeatedCompositeFieldContainer[SignedUrl]
    def __init__(self, urls: _Optional[_Iterable[_Union[SignedUrl, _Mapping]]] = ...) -> None: ...

class ReadDocumentRequest(_message.Message):
    __slots__ = ("job_id", "name")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    name: str
    def __init__(self, job_id: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class ReadDocumentResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...
