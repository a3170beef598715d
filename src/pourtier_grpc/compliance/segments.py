"""A long chain walked by several processes, each a segment at a time.

Each link says which hash it follows on, so a segment can be walked without the one
before it, and whether the two join is seen when both are done.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import chain

from pourtier_grpc.compliance.chain import End, Walked, walk
from pourtier_grpc.compliance.sealed import Sealed
from pourtier_grpc.errors import PourtierError
from pourtier_grpc.store import audit_walk
from pourtier_grpc.store.driver_errors import unavailable
from pourtier_grpc.store.engine import Database, Reader

SEGMENT = 25_000
# Below so many links, starting processes takes longer than it saves.
WORTH_PROCESSES = 200_000

Progress = Callable[[int], object]


def walk_all(
    database: Database,
    read: Reader,
    start: End,
    last: int,
    *,
    jobs: int,
    progress: Progress,
) -> Walked:
    """Walks the chain from a link to a number, by so many processes at most.

    Broken also where fewer links hold than the numbers say that there are.
    """
    walked = _walk_all(database, read, start, last, jobs=jobs, progress=progress)
    whole = walked.end.seq == last and walked.count == last - start.seq
    if walked.broken or walked.finding is not None or whole:
        return walked
    return replace(walked, broken=True)


def _walk_all(
    database: Database,
    read: Reader,
    start: End,
    last: int,
    *,
    jobs: int,
    progress: Progress,
) -> Walked:
    if jobs <= 1 or last - start.seq < WORTH_PROCESSES:
        with _links(read, start.seq + 1, last) as links:
            return walk(links, start, progress)
    walked = Walked(count=0, end=start)
    snapshot = audit_walk.export_snapshot(read)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        url = database.engine.url.render_as_string(hide_password=False)
        for first, future in _spread(pool, url, snapshot, start.seq, last):
            joined, segment = _result(future)
            walked = _joined(walked, first, joined, segment)
            progress(segment.count)
            if walked.broken or walked.finding is not None:
                pool.shutdown(cancel_futures=True)
                break
    return walked


def _joined(
    walked: Walked, first: int, joined: bytes | None, segment: Walked
) -> Walked:
    """Two walks as one; broken where the second does not follow on the first.

    A hash alone does not say so: where links are missing from the end of a segment, the
    next may have been made to follow on what is left.
    """
    if walked.end.seq + 1 != first or joined != walked.end.hash:
        return replace(walked, broken=True)
    # A walk that went nowhere knows only the number of what it follows on.
    end = segment.end if segment.count else walked.end
    return replace(segment, count=walked.count + segment.count, end=end)


Segment = tuple[bytes | None, Walked]


def _spread(
    pool: ProcessPoolExecutor, url: str, snapshot: str, seq: int, last: int
) -> list[tuple[int, Future[Segment | None]]]:
    """The segments in their order, with their first numbers, all of them under way."""
    return [
        (
            first,
            pool.submit(
                walk_segment, url, snapshot, first, min(first + SEGMENT - 1, last)
            ),
        )
        for first in range(seq + 1, last + 1, SEGMENT)
    ]


def _result(future: Future[Segment | None]) -> Segment:
    result = future.result()
    if result is None:
        raise unavailable()
    return result


def walk_segment(url: str, snapshot: str, first: int, last: int) -> Segment | None:
    """Walks a segment, in a process of its own.

    Answers the hash that the first link says to follow on, None where there is none,
    and the walk; or None where the database does not answer, since errors do not travel
    between processes.
    """
    database = Database(url, pool_size=1, pool_overflow=0)
    try:
        with (
            database.snapshot(snapshot) as read,
            _links(read, first, last) as links,
        ):
            return _walk(links, first)
    except PourtierError:
        return None
    finally:
        database.close()


def _walk(links: Iterator[Sealed], first: int) -> Segment:
    head = next(links, None)
    if head is None:
        end = End(seq=first - 1, event_id=None, hash=b"")
        return None, Walked(count=0, end=end, broken=True)
    start = End(seq=first - 1, event_id=None, hash=head.prev_hash)
    return head.prev_hash, walk(chain([head], links), start)


@contextmanager
def _links(read: Reader, first: int, last: int) -> Iterator[Iterator[Sealed]]:
    # Closed as soon as nobody reads on: until then the connection does nothing else.
    with closing(audit_walk.sealed(read, first, last)) as rows:
        yield map(Sealed._make, rows)
