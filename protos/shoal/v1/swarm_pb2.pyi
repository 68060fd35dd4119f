from shoal.v1 import work_pb2 as _work_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PeerOffer(_message.Message):
    __slots__ = ("address", "upload_slots", "download_slots", "tls")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_SLOTS_FIELD_NUMBER: _ClassVar[int]
    DOWNLOAD_SLOTS_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    address: str
    upload_slots: int
    download_slots: int
    tls: bool
    def __init__(self, address: _Optional[str] = ..., upload_slots: _Optional[int] = ..., download_slots: _Optional[int] = ..., tls: bool = ...) -> None: ...

class PeerAddress(_message.Message):
    __slots__ = ("number", "address", "capability", "tls")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITY_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    number: int
    address: str
    capability: str
    tls: bool
    def __init__(self, number: _Optional[int] = ..., address: _Optional[str] = ..., capability: _Optional[str] = ..., tls: bool = ...) -> None: ...

class FetchOrder(_message.Message):
    __slots__ = ("chunk", "peer", "digest", "size")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    chunk: int
    peer: int
    digest: bytes
    size: int
    def __init__(self, chunk: _Optional[int] = ..., peer: _Optional[int] = ..., digest: _Optional[bytes] = ..., size: _Optional[int] = ...) -> None: ...

class PublishOrder(_message.Message):
    __slots__ = ("object_id", "digest", "etag")
    OBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    object_id: int
    digest: str
    etag: str
    def __init__(self, object_id: _Optional[int] = ..., digest: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class SwarmOrders(_message.Message):
    __slots__ = ("job_id", "token", "peers", "fetch", "drop", "vouch", "publish", "reset", "give_up", "ended", "seq", "lives")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    VOUCH_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    GIVE_UP_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    LIVES_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    token: int
    peers: _containers.RepeatedCompositeFieldContainer[PeerAddress]
    fetch: _containers.RepeatedCompositeFieldContainer[FetchOrder]
    drop: _containers.RepeatedScalarFieldContainer[int]
    vouch: _containers.RepeatedScalarFieldContainer[int]
    publish: _containers.RepeatedCompositeFieldContainer[PublishOrder]
    reset: _containers.RepeatedScalarFieldContainer[int]
    give_up: _containers.RepeatedScalarFieldContainer[int]
    ended: bool
    seq: int
    lives: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, job_id: _Optional[str] = ..., token: _Optional[int] = ..., peers: _Optional[_Iterable[_Union[PeerAddress, _Mapping]]] = ..., fetch: _Optional[_Iterable[_Union[FetchOrder, _Mapping]]] = ..., drop: _Optional[_Iterable[int]] = ..., vouch: _Optional[_Iterable[int]] = ..., publish: _Optional[_Iterable[_Union[PublishOrder, _Mapping]]] = ..., reset: _Optional[_Iterable[int]] = ..., give_up: _Optional[_Iterable[int]] = ..., ended: bool = ..., seq: _Optional[int] = ..., lives: _Optional[_Iterable[int]] = ...) -> None: ...

class SwarmInventory(_message.Message):
    __slots__ = ("job_id", "token", "chunks", "have", "published", "digests", "lives")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    HAVE_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    LIVES_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    token: int
    chunks: int
    have: bytes
    published: _containers.RepeatedScalarFieldContainer[int]
    digests: _containers.RepeatedCompositeFieldContainer[ChunkDigest]
    lives: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, job_id: _Optional[str] = ..., token: _Optional[int] = ..., chunks: _Optional[int] = ..., have: _Optional[bytes] = ..., published: _Optional[_Iterable[int]] = ..., digests: _Optional[_Iterable[_Union[ChunkDigest, _Mapping]]] = ..., lives: _Optional[_Iterable[int]] = ...) -> None: ...

class ChunkDigest(_message.Message):
    __slots__ = ("chunk", "digest")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    chunk: int
    digest: bytes
    def __init__(self, chunk: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Arrival(_message.Message):
    __slots__ = ("chunk", "digest", "peer", "from_origin", "from_peers", "etag", "size")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    FROM_ORIGIN_FIELD_NUMBER: _ClassVar[int]
    FROM_PEERS_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    chunk: int
    digest: bytes
    peer: int
    from_origin: int
    from_peers: int
    etag: str
    size: int
    def __init__(self, chunk: _Optional[int] = ..., digest: _Optional[bytes] = ..., peer: _Optional[int] = ..., from_origin: _Optional[int] = ..., from_peers: _Optional[int] = ..., etag: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class FetchFailure(_message.Message):
    __slots__ = ("chunk", "peer", "failure", "object_id")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    OBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    chunk: int
    peer: int
    failure: _work_pb2.Failure
    object_id: int
    def __init__(self, chunk: _Optional[int] = ..., peer: _Optional[int] = ..., failure: _Optional[_Union[_work_pb2.Failure, _Mapping]] = ..., object_id: _Optional[int] = ...) -> None: ...

class Vouch(_message.Message):
    __slots__ = ("object_id", "digest", "failure")
    OBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    object_id: int
    digest: str
    failure: _work_pb2.Failure
    def __init__(self, object_id: _Optional[int] = ..., digest: _Optional[str] = ..., failure: _Optional[_Union[_work_pb2.Failure, _Mapping]] = ...) -> None: ...

class ChunkProgress(_message.Message):
    __slots__ = ("chunk", "arrived")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    ARRIVED_FIELD_NUMBER: _ClassVar[int]
    chunk: int
    arrived: int
    def __init__(self, chunk: _Optional[int] = ..., arrived: _Optional[int] = ...) -> None: ...

class SwarmReport(_message.Message):
    __slots__ = ("job_id", "token", "arrived", "failed", "lost", "vouched", "published", "progress", "seen")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ARRIVED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    VOUCHED_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    token: int
    arrived: _containers.RepeatedCompositeFieldContainer[Arrival]
    failed: _containers.RepeatedCompositeFieldContainer[FetchFailure]
    lost: _containers.RepeatedScalarFieldContainer[int]
    vouched: _containers.RepeatedCompositeFieldContainer[Vouch]
    published: _containers.RepeatedScalarFieldContainer[int]
    progress: _containers.RepeatedCompositeFieldContainer[ChunkProgress]
    seen: int
    def __init__(self, job_id: _Optional[str] = ..., token: _Optional[int] = ..., arrived: _Optional[_Iterable[_Union[Arrival, _Mapping]]] = ..., failed: _Optional[_Iterable[_Union[FetchFailure, _Mapping]]] = ..., lost: _Optional[_Iterable[int]] = ..., vouched: _Optional[_Iterable[_Union[Vouch, _Mapping]]] = ..., published: _Optional[_Iterable[int]] = ..., progress: _Optional[_Iterable[_Union[ChunkProgress, _Mapping]]] = ..., seen: _Optional[int] = ...) -> None: ...
