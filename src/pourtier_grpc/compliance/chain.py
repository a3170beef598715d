"""The chain walked link by link, up to the first that does not hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from pourtier_grpc.compliance.sealed import Sealed, disagreement


class Fault(StrEnum):
    """What has been done to the log."""

    ALTERED = "altered"
    REMOVED = "removed"
    INSERTED = "inserted"
    REORDERED = "reordered"
    CUT = "tail cut"
    REMADE = "chain made anew"
    FORGED = "forged checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The first thing that is wrong, in words, at a place of the chain.

    `event_id` is None where no event can be named. Where all that is known is that it
    lies in a part of the chain, `until` is that part's last number.
    """

    seq: int
    fault: Fault
    text: str
    event_id: str | None = None
    until: int | None = None

    @property
    def known_at(self) -> int:
        """The number at which it shows: of two findings the lesser is the first."""
        return self.seq if self.until is None else self.until

    def __str__(self) -> str:
        event = "" if self.event_id is None else f", event {self.event_id}"
        return f"{self.fault} at {self.seq}{event}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How far the chain holds: the number, the event and the hash of a link."""

    seq: int
    event_id: str | None
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """What a walk has seen: so many links that hold, and how it ended.

    `broken` where the link behind `end` does not hold; `finding` where it holds, and
    something else that is said of its event does not agree with it.
    """

    count: int
    end: End
    broken: bool = False
    finding: Finding | None = None


def walk(
    links: Iterable[Sealed],
    start: End,
    progress: Callable[[int], object] = lambda _: None,
    every: int = 10_000,
) -> Walked:
    """Walks links that should follow on another, which is not looked at itself.

    `progress` is told after `every` so many links how many more there were.
    """
    seq, event_id, before = start.seq, start.event_id, start.hash
    for link in links:
        if (
            link.seq != seq + 1
            or link.prev_hash != before
            or not link.holds_as(link.seq)
        ):
            end = End(seq=seq, event_id=event_id, hash=before)
            return Walked(count=seq - start.seq, end=end, broken=True)
        seq, event_id, before = link.seq, link.event_id, link.hash
        wrong = disagreement(link)
        if wrong is not None:
            found = Finding(seq=seq, event_id=event_id, fault=Fault.ALTERED, text=wrong)
            end = End(seq=seq, event_id=event_id, hash=before)
            return Walked(count=seq - start.seq, end=end, finding=found)
        if (seq - start.seq) % every == 0:
            progress(every)
    progress((seq - start.seq) % every)
    end = End(seq=seq, event_id=event_id, hash=before)
    return Walked(count=seq - start.seq, end=end)
