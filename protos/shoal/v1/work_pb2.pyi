from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Delivery(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DELIVERY_UNSPECIFIED: _ClassVar[Delivery]
    DELIVERY_SPREAD: _ClassVar[Delivery]
    DELIVERY_REPLICATE: _ClassVar[Delivery]
    DELIVERY_DATASET: _ClassVar[Delivery]

class Layout(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LAYOUT_UNSPECIFIED: _ClassVar[Layout]
    LAYOUT_FOLDER: _ClassVar[Layout]
    LAYOUT_HUB_CACHE: _ClassVar[Layout]

class OriginKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORIGIN_KIND_UNSPECIFIED: _ClassVar[OriginKind]
    ORIGIN_KIND_HUB: _ClassVar[OriginKind]
    ORIGIN_KIND_HTTP: _ClassVar[OriginKind]
    ORIGIN_KIND_FILE: _ClassVar[OriginKind]
    ORIGIN_KIND_S3: _ClassVar[OriginKind]

class UnitKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNIT_KIND_UNSPECIFIED: _ClassVar[UnitKind]
    UNIT_KIND_PREPARE: _ClassVar[UnitKind]
    UNIT_KIND_WHOLE: _ClassVar[UnitKind]
    UNIT_KIND_OPEN: _ClassVar[UnitKind]
    UNIT_KIND_RANGE: _ClassVar[UnitKind]
    UNIT_KIND_PUBLISH: _ClassVar[UnitKind]
    UNIT_KIND_FINALIZE: _ClassVar[UnitKind]
    UNIT_KIND_REPLICA: _ClassVar[UnitKind]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_DONE: _ClassVar[Outcome]
    OUTCOME_PARTIAL: _ClassVar[Outcome]
    OUTCOME_RETURNED: _ClassVar[Outcome]
    OUTCOME_FAILED: _ClassVar[Outcome]
DELIVERY_UNSPECIFIED: Delivery
DELIVERY_SPREAD: Delivery
DELIVERY_REPLICATE: Delivery
DELIVERY_DATASET: Delivery
LAYOUT_UNSPECIFIED: Layout
LAYOUT_FOLDER: Layout
LAYOUT_HUB_CACHE: Layout
ORIGIN_KIND_UNSPECIFIED: OriginKind
ORIGIN_KIND_HUB: OriginKind
ORIGIN_KIND_HTTP: OriginKind
ORIGIN_KIND_FILE: OriginKind
ORIGIN_KIND_S3: OriginKind
UNIT_KIND_UNSPECIFIED: UnitKind
UNIT_KIND_PREPARE: UnitKind
UNIT_KIND_WHOLE: UnitKind
UNIT_KIND_OPEN: UnitKind
UNIT_KIND_RANGE: UnitKind
UNIT_KIND_PUBLISH: UnitKind
UNIT_KIND_FINALIZE: UnitKind
UNIT_KIND_REPLICA: UnitKind
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_DONE: Outcome
OUTCOME_PARTIAL: Outcome
OUTCOME_RETURNED: Outcome
OUTCOME_FAILED: Outcome

class Interval(_message.Message):
    __slots__ = ("start", "stop")
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    start: int
    stop: int
    def __init__(self, start: _Optional[int] = ..., stop: _Optional[int] = ...) -> None: ...

class ObjectSpec(_message.Message):
    __slots__ = ("object_id", "path", "size", "digest", "etag", "url")
    OBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    object_id: int
    path: str
    size: int
    digest: str
    etag: str
    url: str
    def __init__(self, object_id: _Optional[int] = ..., path: _Optional[str] = ..., size: _Optional[int] = ..., digest: _Optional[str] = ..., etag: _Optional[str] = ..., url: _Optional[str] = ...) -> None: ...

class JobSpec(_message.Message):
    __slots__ = ("job_id", "source", "origin", "layout", "destination", "endpoints", "repo_kind", "repo_id", "revision", "commit", "force", "total_bytes", "total_objects", "delivery", "profile", "unpack", "unpack_format", "chunks", "verify_everywhere")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    REPO_KIND_FIELD_NUMBER: _ClassVar[int]
    REPO_ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_OBJECTS_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    UNPACK_FIELD_NUMBER: _ClassVar[int]
    UNPACK_FORMAT_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    VERIFY_EVERYWHERE_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    source: str
    origin: OriginKind
    layout: Layout
    destination: str
    endpoints: _containers.RepeatedScalarFieldContainer[str]
    repo_kind: str
    repo_id: str
    revision: str
    commit: str
    force: bool
    total_bytes: int
    total_objects: int
    delivery: Delivery
    profile: str
    unpack: str
    unpack_format: str
    chunks: ChunkSizes
    verify_everywhere: bool
    def __init__(self, job_id: _Optional[str] = ..., source: _Optional[str] = ..., origin: _Optional[_Union[OriginKind, str]] = ..., layout: _Optional[_Union[Layout, str]] = ..., destination: _Optional[str] = ..., endpoints: _Optional[_Iterable[str]] = ..., repo_kind: _Optional[str] = ..., repo_id: _Optional[str] = ..., revision: _Optional[str] = ..., commit: _Optional[str] = ..., force: bool = ..., total_bytes: _Optional[int] = ..., total_objects: _Optional[int] = ..., delivery: _Optional[_Union[Delivery, str]] = ..., profile: _Optional[str] = ..., unpack: _Optional[str] = ..., unpack_format: _Optional[str] = ..., chunks: _Optional[_Union[ChunkSizes, _Mapping]] = ..., verify_everywhere: bool = ...) -> None: ...

class ChunkSizes(_message.Message):
    __slots__ = ("chunk_bytes", "small_bytes_max", "bundle_bytes_max", "bundle_objects_max")
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    SMALL_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_OBJECTS_MAX_FIELD_NUMBER: _ClassVar[int]
    chunk_bytes: int
    small_bytes_max: int
    bundle_bytes_max: int
    bundle_objects_max: int
    def __init__(self, chunk_bytes: _Optional[int] = ..., small_bytes_max: _Optional[int] = ..., bundle_bytes_max: _Optional[int] = ..., bundle_objects_max: _Optional[int] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("unit", "token", "kind", "job_id", "object", "start", "stop", "remaining", "ttl_s")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    unit: str
    token: int
    kind: UnitKind
    job_id: str
    object: ObjectSpec
    start: int
    stop: int
    remaining: int
    ttl_s: float
    def __init__(self, unit: _Optional[str] = ..., token: _Optional[int] = ..., kind: _Optional[_Union[UnitKind, str]] = ..., job_id: _Optional[str] = ..., object: _Optional[_Union[ObjectSpec, _Mapping]] = ..., start: _Optional[int] = ..., stop: _Optional[int] = ..., remaining: _Optional[int] = ..., ttl_s: _Optional[float] = ...) -> None: ...

class LeaseRef(_message.Message):
    __slots__ = ("unit", "token")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    unit: str
    token: int
    def __init__(self, unit: _Optional[str] = ..., token: _Optional[int] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "text", "retryable")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    code: str
    text: str
    retryable: bool
    def __init__(self, code: _Optional[str] = ..., text: _Optional[str] = ..., retryable: bool = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("seq", "unit", "token", "outcome", "done", "released", "fetched", "size", "digest", "etag", "skipped", "failure")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    FETCHED_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    seq: int
    unit: str
    token: int
    outcome: Outcome
    done: _containers.RepeatedCompositeFieldContainer[Interval]
    released: _containers.RepeatedCompositeFieldContainer[Interval]
    fetched: int
    size: int
    digest: str
    etag: str
    skipped: bool
    failure: Failure
    def __init__(self, seq: _Optional[int] = ..., unit: _Optional[str] = ..., token: _Optional[int] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., done: _Optional[_Iterable[_Union[Interval, _Mapping]]] = ..., released: _Optional[_Iterable[_Union[Interval, _Mapping]]] = ..., fetched: _Optional[int] = ..., size: _Optional[int] = ..., digest: _Optional[str] = ..., etag: _Optional[str] = ..., skipped: bool = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("seq", "accepted")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    seq: int
    accepted: bool
    def __init__(self, seq: _Optional[int] = ..., accepted: bool = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("unit", "token", "arrived")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ARRIVED_FIELD_NUMBER: _ClassVar[int]
    unit: str
    token: int
    arrived: int
    def __init__(self, unit: _Optional[str] = ..., token: _Optional[int] = ..., arrived: _Optional[int] = ...) -> None: ...

class Capacity(_message.Message):
    __slots__ = ("slots", "units_max", "bytes_max")
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    UNITS_MAX_FIELD_NUMBER: _ClassVar[int]
    BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    slots: int
    units_max: int
    bytes_max: int
    def __init__(self, slots: _Optional[int] = ..., units_max: _Optional[int] = ..., bytes_max: _Optional[int] = ...) -> None: ...

class HostObservation(_message.Message):
    __slots__ = ("host", "ok", "throttled", "errors", "retry_after_s")
    HOST_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    THROTTLED_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    host: str
    ok: int
    throttled: int
    errors: int
    retry_after_s: float
    def __init__(self, host: _Optional[str] = ..., ok: _Optional[int] = ..., throttled: _Optional[int] = ..., errors: _Optional[int] = ..., retry_after_s: _Optional[float] = ...) -> None: ...

class HostBudget(_message.Message):
    __slots__ = ("host", "requests_per_s", "bytes_per_s", "blocked_s")
    HOST_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_S_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_S_FIELD_NUMBER: _ClassVar[int]
    host: str
    requests_per_s: float
    bytes_per_s: float
    blocked_s: float
    def __init__(self, host: _Optional[str] = ..., requests_per_s: _Optional[float] = ..., bytes_per_s: _Optional[float] = ..., blocked_s: _Optional[float] = ...) -> None: ...
