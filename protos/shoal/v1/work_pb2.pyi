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
    UNIT_KIND_BATCH: _ClassVar[UnitKind]
    UNIT_KIND_TOOL_PLAN: _ClassVar[UnitKind]
    UNIT_KIND_TOOL_RUN: _ClassVar[UnitKind]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_DONE: _ClassVar[Outcome]
    OUTCOME_PARTIAL: _ClassVar[Outcome]
    OUTCOME_RETURNED: _ClassVar[Outcome]
    OUTCOME_FAILED: _ClassVar[Outcome]

class Content(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONTENT_UNSPECIFIED: _ClassVar[Content]
    CONTENT_IMAGE: _ClassVar[Content]
    CONTENT_ANY: _ClassVar[Content]

class ImageEncoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMAGE_ENCODING_UNSPECIFIED: _ClassVar[ImageEncoding]
    IMAGE_ENCODING_JPEG: _ClassVar[ImageEncoding]
    IMAGE_ENCODING_WEBP: _ClassVar[ImageEncoding]
    IMAGE_ENCODING_PNG: _ClassVar[ImageEncoding]
    IMAGE_ENCODING_ORIGINAL: _ClassVar[ImageEncoding]
    IMAGE_ENCODING_RAW_BGR: _ClassVar[ImageEncoding]

class Resampler(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESAMPLER_UNSPECIFIED: _ClassVar[Resampler]
    RESAMPLER_PILLOW: _ClassVar[Resampler]
    RESAMPLER_OPENCV: _ClassVar[Resampler]

class DatasetFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATASET_FORMAT_UNSPECIFIED: _ClassVar[DatasetFormat]
    DATASET_FORMAT_PARQUET: _ClassVar[DatasetFormat]
    DATASET_FORMAT_WEBDATASET: _ClassVar[DatasetFormat]
    DATASET_FORMAT_FILES: _ClassVar[DatasetFormat]

class Restart(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESTART_UNSPECIFIED: _ClassVar[Restart]
    RESTART_PARTITIONING: _ClassVar[Restart]
    RESTART_PROFILING: _ClassVar[Restart]
    RESTART_FAILED: _ClassVar[Restart]

class Answer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ANSWER_UNSPECIFIED: _ClassVar[Answer]
    ANSWER_OK: _ClassVar[Answer]
    ANSWER_THROTTLED: _ClassVar[Answer]
    ANSWER_TIMEOUT: _ClassVar[Answer]
    ANSWER_CONNECT: _ClassVar[Answer]
    ANSWER_REFUSED: _ClassVar[Answer]
    ANSWER_ERROR: _ClassVar[Answer]
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
UNIT_KIND_BATCH: UnitKind
UNIT_KIND_TOOL_PLAN: UnitKind
UNIT_KIND_TOOL_RUN: UnitKind
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_DONE: Outcome
OUTCOME_PARTIAL: Outcome
OUTCOME_RETURNED: Outcome
OUTCOME_FAILED: Outcome
CONTENT_UNSPECIFIED: Content
CONTENT_IMAGE: Content
CONTENT_ANY: Content
IMAGE_ENCODING_UNSPECIFIED: ImageEncoding
IMAGE_ENCODING_JPEG: ImageEncoding
IMAGE_ENCODING_WEBP: ImageEncoding
IMAGE_ENCODING_PNG: ImageEncoding
IMAGE_ENCODING_ORIGINAL: ImageEncoding
IMAGE_ENCODING_RAW_BGR: ImageEncoding
RESAMPLER_UNSPECIFIED: Resampler
RESAMPLER_PILLOW: Resampler
RESAMPLER_OPENCV: Resampler
DATASET_FORMAT_UNSPECIFIED: DatasetFormat
DATASET_FORMAT_PARQUET: DatasetFormat
DATASET_FORMAT_WEBDATASET: DatasetFormat
DATASET_FORMAT_FILES: DatasetFormat
RESTART_UNSPECIFIED: Restart
RESTART_PARTITIONING: Restart
RESTART_PROFILING: Restart
RESTART_FAILED: Restart
ANSWER_UNSPECIFIED: Answer
ANSWER_OK: Answer
ANSWER_THROTTLED: Answer
ANSWER_TIMEOUT: Answer
ANSWER_CONNECT: Answer
ANSWER_REFUSED: Answer
ANSWER_ERROR: Answer

class Interval(_message.Message):
    __slots__ = ("start", "stop")
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    start: int
    stop: int
    def __init__(self, start: _Optional[int] = ..., stop: _Optional[int] = ...) -> None: ...

class ObjectSpec(_message.Message):
    __slots__ = ("object_id", "path", "size", "digest", "etag", "url", "life")
    OBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    object_id: int
    path: str
    size: int
    digest: str
    etag: str
    url: str
    life: int
    def __init__(self, object_id: _Optional[int] = ..., path: _Optional[str] = ..., size: _Optional[int] = ..., digest: _Optional[str] = ..., etag: _Optional[str] = ..., url: _Optional[str] = ..., life: _Optional[int] = ...) -> None: ...

class JobSpec(_message.Message):
    __slots__ = ("job_id", "source", "origin", "layout", "destination", "endpoints", "repo_kind", "repo_id", "revision", "commit", "force", "total_bytes", "total_objects", "delivery", "profile", "unpack", "unpack_format", "chunks", "verify_everywhere", "collect", "tool", "nas", "licenses", "pinned")
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
    COLLECT_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    NAS_FIELD_NUMBER: _ClassVar[int]
    LICENSES_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
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
    collect: CollectSpec
    tool: ToolSpec
    nas: str
    licenses: _containers.RepeatedScalarFieldContainer[str]
    pinned: bool
    def __init__(self, job_id: _Optional[str] = ..., source: _Optional[str] = ..., origin: _Optional[_Union[OriginKind, str]] = ..., layout: _Optional[_Union[Layout, str]] = ..., destination: _Optional[str] = ..., endpoints: _Optional[_Iterable[str]] = ..., repo_kind: _Optional[str] = ..., repo_id: _Optional[str] = ..., revision: _Optional[str] = ..., commit: _Optional[str] = ..., force: bool = ..., total_bytes: _Optional[int] = ..., total_objects: _Optional[int] = ..., delivery: _Optional[_Union[Delivery, str]] = ..., profile: _Optional[str] = ..., unpack: _Optional[str] = ..., unpack_format: _Optional[str] = ..., chunks: _Optional[_Union[ChunkSizes, _Mapping]] = ..., verify_everywhere: bool = ..., collect: _Optional[_Union[CollectSpec, _Mapping]] = ..., tool: _Optional[_Union[ToolSpec, _Mapping]] = ..., nas: _Optional[str] = ..., licenses: _Optional[_Iterable[str]] = ..., pinned: bool = ...) -> None: ...

class NasCounts(_message.Message):
    __slots__ = ("files_copied", "bytes_copied", "files_there", "files_waiting", "bytes_waiting", "files_failing", "files_refused", "files_removed", "files_to_remove", "reason")
    FILES_COPIED_FIELD_NUMBER: _ClassVar[int]
    BYTES_COPIED_FIELD_NUMBER: _ClassVar[int]
    FILES_THERE_FIELD_NUMBER: _ClassVar[int]
    FILES_WAITING_FIELD_NUMBER: _ClassVar[int]
    BYTES_WAITING_FIELD_NUMBER: _ClassVar[int]
    FILES_FAILING_FIELD_NUMBER: _ClassVar[int]
    FILES_REFUSED_FIELD_NUMBER: _ClassVar[int]
    FILES_REMOVED_FIELD_NUMBER: _ClassVar[int]
    FILES_TO_REMOVE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    files_copied: int
    bytes_copied: int
    files_there: int
    files_waiting: int
    bytes_waiting: int
    files_failing: int
    files_refused: int
    files_removed: int
    files_to_remove: int
    reason: str
    def __init__(self, files_copied: _Optional[int] = ..., bytes_copied: _Optional[int] = ..., files_there: _Optional[int] = ..., files_waiting: _Optional[int] = ..., bytes_waiting: _Optional[int] = ..., files_failing: _Optional[int] = ..., files_refused: _Optional[int] = ..., files_removed: _Optional[int] = ..., files_to_remove: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class NasJob(_message.Message):
    __slots__ = ("job_id", "counts")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    counts: NasCounts
    def __init__(self, job_id: _Optional[str] = ..., counts: _Optional[_Union[NasCounts, _Mapping]] = ...) -> None: ...

class NasReport(_message.Message):
    __slots__ = ("total", "jobs")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    JOBS_FIELD_NUMBER: _ClassVar[int]
    total: NasCounts
    jobs: _containers.RepeatedCompositeFieldContainer[NasJob]
    def __init__(self, total: _Optional[_Union[NasCounts, _Mapping]] = ..., jobs: _Optional[_Iterable[_Union[NasJob, _Mapping]]] = ...) -> None: ...

class Pair(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class HostRobots(_message.Message):
    __slots__ = ("host", "obey")
    HOST_FIELD_NUMBER: _ClassVar[int]
    OBEY_FIELD_NUMBER: _ClassVar[int]
    host: str
    obey: bool
    def __init__(self, host: _Optional[str] = ..., obey: bool = ...) -> None: ...

class CollectSpec(_message.Message):
    __slots__ = ("tables", "columns", "carry", "batch_size", "content", "image_size", "image_encoding", "image_quality", "format", "row_group_bytes", "request_timeout_s", "idle_timeout_s", "attempts", "redirects_max", "body_bytes_max", "pixels_max", "decode_timeout_s", "decode_memory_bytes", "robots", "respect_ai_opt_out", "allow_private_addresses", "user_agent", "rate", "rate_multiplier", "connections", "backoff_initial_s", "backoff_cap_s", "host_patience_s", "robots_of", "ignored", "restart", "restart_codes", "resampler")
    TABLES_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    CARRY_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_ENCODING_FIELD_NUMBER: _ClassVar[int]
    IMAGE_QUALITY_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    ROW_GROUP_BYTES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    REDIRECTS_MAX_FIELD_NUMBER: _ClassVar[int]
    BODY_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    PIXELS_MAX_FIELD_NUMBER: _ClassVar[int]
    DECODE_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    DECODE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROBOTS_FIELD_NUMBER: _ClassVar[int]
    RESPECT_AI_OPT_OUT_FIELD_NUMBER: _ClassVar[int]
    ALLOW_PRIVATE_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    USER_AGENT_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    RATE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    BACKOFF_INITIAL_S_FIELD_NUMBER: _ClassVar[int]
    BACKOFF_CAP_S_FIELD_NUMBER: _ClassVar[int]
    HOST_PATIENCE_S_FIELD_NUMBER: _ClassVar[int]
    ROBOTS_OF_FIELD_NUMBER: _ClassVar[int]
    IGNORED_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    RESTART_CODES_FIELD_NUMBER: _ClassVar[int]
    RESAMPLER_FIELD_NUMBER: _ClassVar[int]
    tables: _containers.RepeatedScalarFieldContainer[str]
    columns: _containers.RepeatedCompositeFieldContainer[Pair]
    carry: _containers.RepeatedScalarFieldContainer[str]
    batch_size: int
    content: Content
    image_size: int
    image_encoding: ImageEncoding
    image_quality: int
    format: DatasetFormat
    row_group_bytes: int
    request_timeout_s: float
    idle_timeout_s: float
    attempts: int
    redirects_max: int
    body_bytes_max: int
    pixels_max: int
    decode_timeout_s: float
    decode_memory_bytes: int
    robots: bool
    respect_ai_opt_out: bool
    allow_private_addresses: bool
    user_agent: str
    rate: float
    rate_multiplier: float
    connections: int
    backoff_initial_s: float
    backoff_cap_s: float
    host_patience_s: float
    robots_of: _containers.RepeatedCompositeFieldContainer[HostRobots]
    ignored: _containers.RepeatedScalarFieldContainer[str]
    restart: Restart
    restart_codes: _containers.RepeatedScalarFieldContainer[int]
    resampler: Resampler
    def __init__(self, tables: _Optional[_Iterable[str]] = ..., columns: _Optional[_Iterable[_Union[Pair, _Mapping]]] = ..., carry: _Optional[_Iterable[str]] = ..., batch_size: _Optional[int] = ..., content: _Optional[_Union[Content, str]] = ..., image_size: _Optional[int] = ..., image_encoding: _Optional[_Union[ImageEncoding, str]] = ..., image_quality: _Optional[int] = ..., format: _Optional[_Union[DatasetFormat, str]] = ..., row_group_bytes: _Optional[int] = ..., request_timeout_s: _Optional[float] = ..., idle_timeout_s: _Optional[float] = ..., attempts: _Optional[int] = ..., redirects_max: _Optional[int] = ..., body_bytes_max: _Optional[int] = ..., pixels_max: _Optional[int] = ..., decode_timeout_s: _Optional[float] = ..., decode_memory_bytes: _Optional[int] = ..., robots: bool = ..., respect_ai_opt_out: bool = ..., allow_private_addresses: bool = ..., user_agent: _Optional[str] = ..., rate: _Optional[float] = ..., rate_multiplier: _Optional[float] = ..., connections: _Optional[int] = ..., backoff_initial_s: _Optional[float] = ..., backoff_cap_s: _Optional[float] = ..., host_patience_s: _Optional[float] = ..., robots_of: _Optional[_Iterable[_Union[HostRobots, _Mapping]]] = ..., ignored: _Optional[_Iterable[str]] = ..., restart: _Optional[_Union[Restart, str]] = ..., restart_codes: _Optional[_Iterable[int]] = ..., resampler: _Optional[_Union[Resampler, str]] = ...) -> None: ...

class ToolSpec(_message.Message):
    __slots__ = ("name", "load", "load_digest", "allow_unregistered", "reset", "options", "workers")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    LOAD_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ALLOW_UNREGISTERED_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    load: str
    load_digest: str
    allow_unregistered: bool
    reset: str
    options: _containers.RepeatedCompositeFieldContainer[Pair]
    workers: int
    def __init__(self, name: _Optional[str] = ..., load: _Optional[str] = ..., load_digest: _Optional[str] = ..., allow_unregistered: bool = ..., reset: _Optional[str] = ..., options: _Optional[_Iterable[_Union[Pair, _Mapping]]] = ..., workers: _Optional[int] = ...) -> None: ...

class HostProfile(_message.Message):
    __slots__ = ("host", "reachable", "protocol", "status", "latency_s", "bytes_per_s", "content_type", "size", "ranges", "robots", "crawl_delay_s", "server", "error")
    HOST_FIELD_NUMBER: _ClassVar[int]
    REACHABLE_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_S_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    ROBOTS_FIELD_NUMBER: _ClassVar[int]
    CRAWL_DELAY_S_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    host: str
    reachable: bool
    protocol: str
    status: int
    latency_s: float
    bytes_per_s: float
    content_type: str
    size: int
    ranges: bool
    robots: str
    crawl_delay_s: float
    server: str
    error: str
    def __init__(self, host: _Optional[str] = ..., reachable: bool = ..., protocol: _Optional[str] = ..., status: _Optional[int] = ..., latency_s: _Optional[float] = ..., bytes_per_s: _Optional[float] = ..., content_type: _Optional[str] = ..., size: _Optional[int] = ..., ranges: bool = ..., robots: _Optional[str] = ..., crawl_delay_s: _Optional[float] = ..., server: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class CodeCount(_message.Message):
    __slots__ = ("code", "rows")
    CODE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    code: int
    rows: int
    def __init__(self, code: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

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
    __slots__ = ("unit", "token", "kind", "job_id", "object", "start", "stop", "remaining", "ttl_s", "profile", "give_up_code")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    GIVE_UP_CODE_FIELD_NUMBER: _ClassVar[int]
    unit: str
    token: int
    kind: UnitKind
    job_id: str
    object: ObjectSpec
    start: int
    stop: int
    remaining: int
    ttl_s: float
    profile: bool
    give_up_code: int
    def __init__(self, unit: _Optional[str] = ..., token: _Optional[int] = ..., kind: _Optional[_Union[UnitKind, str]] = ..., job_id: _Optional[str] = ..., object: _Optional[_Union[ObjectSpec, _Mapping]] = ..., start: _Optional[int] = ..., stop: _Optional[int] = ..., remaining: _Optional[int] = ..., ttl_s: _Optional[float] = ..., profile: bool = ..., give_up_code: _Optional[int] = ...) -> None: ...

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
    __slots__ = ("seq", "unit", "token", "outcome", "done", "released", "fetched", "size", "digest", "etag", "skipped", "failure", "tally", "profile")
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
    TALLY_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
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
    tally: _containers.RepeatedCompositeFieldContainer[CodeCount]
    profile: HostProfile
    def __init__(self, seq: _Optional[int] = ..., unit: _Optional[str] = ..., token: _Optional[int] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., done: _Optional[_Iterable[_Union[Interval, _Mapping]]] = ..., released: _Optional[_Iterable[_Union[Interval, _Mapping]]] = ..., fetched: _Optional[int] = ..., size: _Optional[int] = ..., digest: _Optional[str] = ..., etag: _Optional[str] = ..., skipped: bool = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., tally: _Optional[_Iterable[_Union[CodeCount, _Mapping]]] = ..., profile: _Optional[_Union[HostProfile, _Mapping]] = ...) -> None: ...

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
    __slots__ = ("host", "ok", "throttled", "errors", "retry_after_s", "timeouts", "unreachable", "refused", "status", "latency_s", "crawl_delay_s", "waiting", "probe", "probe_answer")
    HOST_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    THROTTLED_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    TIMEOUTS_FIELD_NUMBER: _ClassVar[int]
    UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_S_FIELD_NUMBER: _ClassVar[int]
    CRAWL_DELAY_S_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    PROBE_ANSWER_FIELD_NUMBER: _ClassVar[int]
    host: str
    ok: int
    throttled: int
    errors: int
    retry_after_s: float
    timeouts: int
    unreachable: int
    refused: int
    status: int
    latency_s: float
    crawl_delay_s: float
    waiting: int
    probe: int
    probe_answer: Answer
    def __init__(self, host: _Optional[str] = ..., ok: _Optional[int] = ..., throttled: _Optional[int] = ..., errors: _Optional[int] = ..., retry_after_s: _Optional[float] = ..., timeouts: _Optional[int] = ..., unreachable: _Optional[int] = ..., refused: _Optional[int] = ..., status: _Optional[int] = ..., latency_s: _Optional[float] = ..., crawl_delay_s: _Optional[float] = ..., waiting: _Optional[int] = ..., probe: _Optional[int] = ..., probe_answer: _Optional[_Union[Answer, str]] = ...) -> None: ...

class HostBudget(_message.Message):
    __slots__ = ("host", "requests_per_s", "bytes_per_s", "blocked_s", "burst", "connections", "leased", "nothing", "probe", "initial", "unless_held")
    HOST_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_S_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_S_FIELD_NUMBER: _ClassVar[int]
    BURST_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    LEASED_FIELD_NUMBER: _ClassVar[int]
    NOTHING_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    INITIAL_FIELD_NUMBER: _ClassVar[int]
    UNLESS_HELD_FIELD_NUMBER: _ClassVar[int]
    host: str
    requests_per_s: float
    bytes_per_s: float
    blocked_s: float
    burst: float
    connections: int
    leased: bool
    nothing: bool
    probe: bool
    initial: float
    unless_held: bool
    def __init__(self, host: _Optional[str] = ..., requests_per_s: _Optional[float] = ..., bytes_per_s: _Optional[float] = ..., blocked_s: _Optional[float] = ..., burst: _Optional[float] = ..., connections: _Optional[int] = ..., leased: bool = ..., nothing: bool = ..., probe: bool = ..., initial: _Optional[float] = ..., unless_held: bool = ...) -> None: ...
