"""What is said of swarms, to and from ``shoal.v1`` messages. Decoding raises `ProtocolViolation`."""

from __future__ import annotations

from collections.abc import Iterable

from shoal.v1 import swarm_pb2 as pb

from .swarm_records import (
    MIXED,
    Arrival,
    ChunkDigest,
    ChunkProgress,
    FetchFailure,
    FetchOrder,
    PeerAddress,
    PeerOffer,
    PublishOrder,
    SwarmInventory,
    SwarmOrders,
    SwarmReport,
    Vouch,
)
from .wire_values import count, each, name, violation
from .wire_work import decode_failure, encode_failure

DIGEST_BYTES = 32


def encode_peer_offer(offer: PeerOffer | None) -> pb.PeerOffer | None:
    """How an agent can be asked for chunks."""
    if offer is None:
        return None
    return pb.PeerOffer(
        address=offer.address, upload_slots=offer.upload_slots, download_slots=offer.download_slots, tls=offer.tls
    )


def decode_peer_offer(offer: pb.PeerOffer) -> PeerOffer:
    """How an agent can be asked for chunks."""
    return PeerOffer(
        address=offer.address,
        upload_slots=count(offer.upload_slots, "PeerOffer.upload_slots"),
        download_slots=count(offer.download_slots, "PeerOffer.download_slots"),
        tls=offer.tls,
    )


def encode_swarm_orders(orders: SwarmOrders) -> pb.SwarmOrders:
    """What the swarm wants of an agent."""
    return pb.SwarmOrders(
        job_id=orders.job_id,
        token=orders.token,
        peers=(
            pb.PeerAddress(number=peer.number, address=peer.address, capability=peer.capability, tls=peer.tls)
            for peer in orders.peers
        ),
        fetch=(
            pb.FetchOrder(chunk=order.chunk, peer=order.peer, digest=order.digest, size=order.size)
            for order in orders.fetch
        ),
        drop=orders.drop,
        vouch=orders.vouch,
        publish=(
            pb.PublishOrder(object_id=order.object_id, digest=order.digest, etag=order.etag) for order in orders.publish
        ),
        reset=orders.reset,
        give_up=orders.give_up,
        ended=orders.ended,
        seq=orders.seq,
        lives=orders.lives,
    )


def decode_swarm_orders(orders: pb.SwarmOrders) -> SwarmOrders:
    """What the swarm wants of an agent."""
    return SwarmOrders(
        job_id=name(orders.job_id, "SwarmOrders.job_id"),
        token=count(orders.token, "SwarmOrders.token"),
        peers=each(_decode_peer, orders.peers, "SwarmOrders.peers"),
        fetch=each(_decode_fetch, orders.fetch, "SwarmOrders.fetch"),
        drop=_counts(orders.drop, "SwarmOrders.drop"),
        vouch=_counts(orders.vouch, "SwarmOrders.vouch"),
        publish=each(_decode_publish, orders.publish, "SwarmOrders.publish"),
        reset=_counts(orders.reset, "SwarmOrders.reset"),
        give_up=_counts(orders.give_up, "SwarmOrders.give_up"),
        ended=orders.ended,
        seq=count(orders.seq, "SwarmOrders.seq"),
        lives=_counts(orders.lives, "SwarmOrders.lives"),
    )


def encode_swarm_inventory(inventory: SwarmInventory) -> pb.SwarmInventory:
    """What an agent holds of a job."""
    return pb.SwarmInventory(
        job_id=inventory.job_id,
        token=inventory.token,
        chunks=inventory.chunks,
        have=inventory.have,
        published=inventory.published,
        digests=(pb.ChunkDigest(chunk=known.chunk, digest=known.digest) for known in inventory.digests),
        lives=inventory.lives,
    )


def decode_swarm_inventory(inventory: pb.SwarmInventory) -> SwarmInventory:
    """What an agent holds of a job: a set of chunks that is no longer than the table."""
    chunks = count(inventory.chunks, "SwarmInventory.chunks")
    if int.from_bytes(inventory.have, "little").bit_length() > chunks:
        raise violation("SwarmInventory.have", f"it names chunks beyond the {chunks} that it says there are")
    return SwarmInventory(
        job_id=name(inventory.job_id, "SwarmInventory.job_id"),
        token=count(inventory.token, "SwarmInventory.token"),
        chunks=chunks,
        have=inventory.have,
        published=_counts(inventory.published, "SwarmInventory.published"),
        digests=each(_decode_chunk_digest, inventory.digests, "SwarmInventory.digests"),
        lives=_counts(inventory.lives, "SwarmInventory.lives"),
    )


def encode_swarm_report(report: SwarmReport) -> pb.SwarmReport:
    """What happened to an agent's copy."""
    return pb.SwarmReport(
        job_id=report.job_id,
        token=report.token,
        arrived=map(_encode_arrival, report.arrived),
        failed=(
            pb.FetchFailure(
                chunk=failed.chunk,
                peer=failed.peer,
                failure=encode_failure(failed.failure),
                object_id=failed.object_id,
            )
            for failed in report.failed
        ),
        lost=report.lost,
        vouched=(
            pb.Vouch(object_id=vouch.object_id, digest=vouch.digest, failure=encode_failure(vouch.failure))
            for vouch in report.vouched
        ),
        published=report.published,
        progress=(pb.ChunkProgress(chunk=it.chunk, arrived=it.arrived) for it in report.progress),
        seen=report.seen,
    )


def decode_swarm_report(report: pb.SwarmReport) -> SwarmReport:
    """What happened to an agent's copy."""
    return SwarmReport(
        job_id=name(report.job_id, "SwarmReport.job_id"),
        token=count(report.token, "SwarmReport.token"),
        arrived=each(_decode_arrival, report.arrived, "SwarmReport.arrived"),
        failed=each(_decode_fetch_failure, report.failed, "SwarmReport.failed"),
        lost=_counts(report.lost, "SwarmReport.lost"),
        vouched=each(_decode_vouch, report.vouched, "SwarmReport.vouched"),
        published=_counts(report.published, "SwarmReport.published"),
        progress=each(_decode_progress, report.progress, "SwarmReport.progress"),
        seen=count(report.seen, "SwarmReport.seen"),
    )


def _counts(numbers: Iterable[int], field: str) -> tuple[int, ...]:
    return tuple(count(number, field) for number in numbers)


def _digest(digest: bytes, field: str, *, optional: bool = False) -> bytes:
    if len(digest) != DIGEST_BYTES and not (optional and not digest):
        raise violation(field, f"{len(digest)} bytes are no BLAKE3 digest")
    return digest


def _decode_peer(peer: pb.PeerAddress) -> PeerAddress:
    if peer.number < 1:
        raise violation("PeerAddress.number", f"{peer.number} is no peer's")
    return PeerAddress(
        number=peer.number,
        address=name(peer.address, "PeerAddress.address"),
        capability=peer.capability,
        tls=peer.tls,
    )


def _decode_fetch(order: pb.FetchOrder) -> FetchOrder:
    return FetchOrder(
        chunk=count(order.chunk, "FetchOrder.chunk"),
        peer=count(order.peer, "FetchOrder.peer"),
        digest=_digest(order.digest, "FetchOrder.digest", optional=True),
        size=count(order.size, "FetchOrder.size") if order.HasField("size") else None,
    )


def _decode_publish(order: pb.PublishOrder) -> PublishOrder:
    return PublishOrder(
        object_id=count(order.object_id, "PublishOrder.object_id"), digest=order.digest, etag=order.etag
    )


def _decode_chunk_digest(known: pb.ChunkDigest) -> ChunkDigest:
    return ChunkDigest(
        chunk=count(known.chunk, "ChunkDigest.chunk"), digest=_digest(known.digest, "ChunkDigest.digest")
    )


def _encode_arrival(arrival: Arrival) -> pb.Arrival:
    return pb.Arrival(
        chunk=arrival.chunk,
        digest=arrival.digest,
        peer=arrival.peer,
        from_origin=arrival.from_origin,
        from_peers=arrival.from_peers,
        etag=arrival.etag,
        size=arrival.size,
    )


def _decode_arrival(arrival: pb.Arrival) -> Arrival:
    return Arrival(
        chunk=count(arrival.chunk, "Arrival.chunk"),
        digest=_digest(arrival.digest, "Arrival.digest"),
        peer=MIXED if arrival.peer == MIXED else count(arrival.peer, "Arrival.peer"),
        from_origin=count(arrival.from_origin, "Arrival.from_origin"),
        from_peers=count(arrival.from_peers, "Arrival.from_peers"),
        etag=arrival.etag,
        size=count(arrival.size, "Arrival.size") if arrival.HasField("size") else None,
    )


def _decode_fetch_failure(failed: pb.FetchFailure) -> FetchFailure:
    return FetchFailure(
        chunk=count(failed.chunk, "FetchFailure.chunk"),
        peer=count(failed.peer, "FetchFailure.peer"),
        failure=decode_failure(failed.failure),
        object_id=count(failed.object_id, "FetchFailure.object_id"),
    )


def _decode_vouch(vouch: pb.Vouch) -> Vouch:
    return Vouch(
        object_id=count(vouch.object_id, "Vouch.object_id"),
        digest=vouch.digest,
        failure=decode_failure(vouch.failure) if vouch.HasField("failure") else None,
    )


def _decode_progress(progress: pb.ChunkProgress) -> ChunkProgress:
    return ChunkProgress(
        chunk=count(progress.chunk, "ChunkProgress.chunk"), arrived=count(progress.arrived, "ChunkProgress.arrived")
    )
