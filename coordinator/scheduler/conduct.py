"""How one host treats the fleet, and what the fleet may do in return.

    OPEN      --throttled-->                      BLOCKED   until Retry-After, or a backoff that doubles
    OPEN      --a streak without success-->       PARKED    the breaker: 10 answers 401, 403, 410, or 10 requests without any
    BLOCKED   --the wait is over-->               HALF_OPEN one request of the whole fleet probes the host
    HALF_OPEN --the probe is answered-->          OPEN
    HALF_OPEN --throttled, refused, silent-->     BLOCKED   longer than before
    HALF_OPEN --nobody knows what became of it--> HALF_OPEN another one probes
    PARKED    --the wait is over, probe fails-->  PARKED    for twice as long
    PARKED    --the probe succeeds-->             OPEN

While a host is BLOCKED, what comes in is of the same incident: a longer Retry-After extends the wait, nothing counts twice. While it is
HALF_OPEN or PARKED, only the probe's answer counts. A host that nobody has shares of (no budget) is asked again by all at the end of
its wait: BLOCKED --the wait is over--> OPEN.

Waits: what Retry-After says; if the host answers the next probe with it again, twice that, then four times, so that a host that never
relents is not asked for ever at the pace that it names. Without Retry-After an initial wait that doubles from incident to incident,
with 10 % jitter, forgiven after a quiet time with successes (as StormCrawler's fetcher does; its values for dataset jobs, short ones
for downloads, where a person waits).

Pure. Times are seconds of a monotonic clock; the random generator is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...common.records import Answer, HostObservation
from ...common.views import HostCondition as Condition

if TYPE_CHECKING:
    import random

RETRY_AFTER_MAX_S = 24 * 3600.0
THROTTLED_FIRST_S = 1.0  # a throttling answer that names no wait: begin with this, double at every further one
THROTTLED_MAX_S = 300.0
FORGIVEN_AFTER_S = 60.0  # so long without a throttling answer, and the doubling begins anew
FORGIVEN_AFTER_DATASET_S = 1800.0  # StormCrawler's half hour
JITTER = 0.1
STREAK_MAX = 10
"""So many refusals, or failed connections and timeouts, without a success between them: one is chance, ten are a decision
(StormCrawler: 5 to 10)."""
PARKED_FIRST_S = 60.0
PARKED_MAX_S = 24 * 3600.0
_DOUBLINGS_MAX = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """How long a host is left alone."""

    initial_s: float = THROTTLED_FIRST_S
    cap_s: float = THROTTLED_MAX_S
    retry_after_max_s: float = RETRY_AFTER_MAX_S
    forgiven_after_s: float = FORGIVEN_AFTER_S


@dataclass(slots=True, kw_only=True)
class Conduct:
    """One host's state."""

    manners: Manners = field(default_factory=Manners)
    condition: Condition = Condition.OPEN
    blocked_until: float = 0.0
    prober: str = ""
    permit: int = 0  # the probe that is under way
    last_status: int = 0
    in_trouble_since: float | None = None
    refused_streak: int = 0
    unreachable_streak: int = 0
    incidents: int = 0  # without Retry-After, not forgiven yet
    rebuffs: int = 0  # waits by Retry-After without a success between them
    parkings: int = 0  # without a success between them
    throttled_at: float = float("-inf")

    def may_probe(self, now: float) -> bool:
        """Whether one request may be sent to see how the host is."""
        return self.condition is Condition.HALF_OPEN or (
            self.condition is Condition.PARKED and now >= self.blocked_until
        )

    def pass_time(self, now: float, *, is_shared: bool) -> bool:
        """Returns whether a wait ended just now."""
        if self.condition is not Condition.BLOCKED or now < self.blocked_until:
            return False
        self.condition = Condition.HALF_OPEN if is_shared else Condition.OPEN
        return True

    def observe(self, seen: HostObservation, now: float, rng: random.Random, *, is_shared: bool = True) -> bool:
        """Take in what an agent met. is_shared: the host has a budget that is given out. Returns whether the agents must hear of it."""
        self._note(seen, now)
        if seen.probe:
            return seen.probe == self.permit and self._probed(seen, now, rng)
        is_throttled = bool(seen.throttled or seen.retry_after_s)
        match self.condition:
            case Condition.OPEN if is_throttled:
                self._block(seen.retry_after_s, now, rng)
                return True
            case Condition.OPEN:
                return self._streaks(seen, now) and is_shared and self._park(now)
            case Condition.BLOCKED if is_throttled and seen.retry_after_s:
                until = now + min(seen.retry_after_s, self.manners.retry_after_max_s)
                is_longer = until > self.blocked_until
                self.blocked_until = max(self.blocked_until, until)
                return is_longer
            case _:
                return False

    def lose_probe(self) -> None:
        """Nobody will know what became of the probe: its agent is gone, or had nothing to ask."""
        self.prober, self.permit = "", 0

    def _note(self, seen: HostObservation, now: float) -> None:
        if seen.status:
            self.last_status = seen.status
        failed = seen.throttled or seen.timeouts or seen.unreachable or seen.refused or seen.errors
        if seen.ok:
            self.in_trouble_since = None
        elif failed and self.in_trouble_since is None:
            self.in_trouble_since = now

    def _probed(self, seen: HostObservation, now: float, rng: random.Random) -> bool:
        was_parked, answer = self.condition is Condition.PARKED, seen.probe_answer
        self.lose_probe()
        if answer is None:
            return True
        is_alive = answer is Answer.ERROR and not (was_parked and self.refused_streak >= STREAK_MAX)
        if answer is Answer.OK or is_alive:
            self._open()
        elif was_parked:
            self._park(now)
        else:
            self._block(seen.retry_after_s if answer is Answer.THROTTLED else 0.0, now, rng)
        return True

    def _open(self) -> None:
        self.condition = Condition.OPEN
        self.refused_streak = self.unreachable_streak = self.rebuffs = self.parkings = 0

    def _block(self, retry_after_s: float, now: float, rng: random.Random) -> None:
        manners = self.manners
        if retry_after_s > 0:
            self.rebuffs += 1
            wait_s = min(retry_after_s, manners.retry_after_max_s) * 2.0 ** min(self.rebuffs - 1, _DOUBLINGS_MAX)
            wait_s = min(wait_s, manners.retry_after_max_s)
        else:
            self.incidents += 1
            wait_s = manners.initial_s * 2.0 ** min(self.incidents - 1, _DOUBLINGS_MAX)
            wait_s = min(manners.cap_s, wait_s * (1.0 + JITTER * rng.random()))
        self.throttled_at = now
        self.condition = Condition.BLOCKED
        self.blocked_until = now + wait_s

    def _park(self, now: float) -> bool:
        self.parkings += 1
        wait_s = max(PARKED_FIRST_S, self.manners.initial_s) * 2.0 ** min(self.parkings - 1, _DOUBLINGS_MAX)
        self.condition = Condition.PARKED
        self.blocked_until = now + min(wait_s, PARKED_MAX_S)
        return True

    def _streaks(self, seen: HostObservation, now: float) -> bool:
        if seen.ok:
            self.refused_streak = self.unreachable_streak = self.rebuffs = 0
            if now - self.throttled_at > self.manners.forgiven_after_s:
                self.incidents = 0
            return False
        self.refused_streak += seen.refused
        silent = seen.unreachable + seen.timeouts
        # Whatever it answers, it is there.
        self.unreachable_streak = silent if seen.errors or seen.refused else self.unreachable_streak + silent
        return max(self.refused_streak, self.unreachable_streak) >= STREAK_MAX
