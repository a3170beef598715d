"""Tampering behind the service's back: each kind is found, and named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from pourtier_grpc.compliance import checkpoints, segments
from pourtier_grpc.compliance.chain import Fault, Finding
from pourtier_grpc.compliance.checkpoints import Bounds
from pourtier_grpc.compliance.evidence import Kind, sign
from pourtier_grpc.compliance.evidence_keys import known_keys
from pourtier_grpc.compliance.verification import Verification, Verified
from pourtier_grpc.store import audit_walk
from pourtier_grpc.store.audit import personal_hash
from support.audit import Log, log_on

COUNT = 12


@pytest.fixture
def log(database_url: str, folder: Path) -> Iterator[Log]:
    """Twelve events, the first eight under a checkpoint, all under another."""
    with log_on(database_url, folder) as made:
        made.sealed(8)
        made.sealed(4)
        yield made


def verify(log: Log, file: Path | None = None, jobs: int = 1) -> Verified:
    return Verification(log.database, jobs=jobs).run(file)


def found(log: Log, file: Path | None = None) -> Finding:
    """What is found. With several processes it is the same."""
    one = verify(log, file)
    assert one == verify(log, file, jobs=2)
    assert one.finding is not None
    return one.finding


def event_at(log: Log, seq: int) -> str:
    row = log.sql.one("SELECT event_id FROM audit_seals WHERE seq = %s", seq)
    return str(row["event_id"])


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walks of several processes are in this one, in segments of five links."""
    monkeypatch.setattr(segments, "WORTH_PROCESSES", 1)
    monkeypatch.setattr(segments, "SEGMENT", 5)
    monkeypatch.setattr(segments, "ProcessPoolExecutor", _InThisProcess)


class _InThisProcess(ThreadPoolExecutor):
    def __init__(self, jobs: int, **_: object) -> None:
        super().__init__(jobs)


class TestAWholeLog:
    def test_it_is_verified_with_and_without_the_file(self, log: Log) -> None:
        log.add(2)
        for file, lines in ((None, 0), (log.path, 2)):
            for jobs in (1, 2):
                assert verify(log, file, jobs) == Verified(
                    first=1,
                    events=COUNT,
                    waiting=2,
                    checkpoints=2,
                    lines=lines,
                    finding=None,
                )

    def test_processes_of_their_own_see_the_same(
        self, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(segments, "ProcessPoolExecutor", ProcessPoolExecutor)
        assert verify(log, log.path, jobs=2) == verify(log, log.path)
        remove(log, 7)
        assert verify(log, log.path, jobs=2) == verify(log, log.path)

    def test_an_empty_one_too(self, database_url: str, folder: Path) -> None:
        with log_on(database_url, folder) as empty:
            assert verify(empty).finding is None
            empty.add(1)
            assert verify(empty) == Verified(
                first=1, events=0, waiting=1, checkpoints=0, lines=0, finding=None
            )

    def test_erasing_what_is_personal_changes_nothing(self, log: Log) -> None:
        log.sql.run("DELETE FROM audit_personal WHERE event_id = %s", event_at(log, 3))
        assert verify(log, log.path).finding is None

    def test_sealing_meanwhile_changes_nothing(self, log: Log) -> None:
        seen: list[Verified] = []
        log.add(5)

        def meanwhile(_: int) -> None:
            if not seen:
                log.sealed(3)

        seen.append(Verification(log.database, progress=meanwhile).run(log.path))
        assert seen[0].finding is None
        assert (seen[0].events, seen[0].waiting) == (COUNT, 5)

    def test_progress_is_told(self, log: Log) -> None:
        for jobs in (1, 2):
            told: list[int] = []
            Verification(log.database, jobs=jobs, progress=told.append).run()
            assert sum(told) == COUNT


class TestAltered:
    @pytest.mark.parametrize("seq", [1, 5, 6, 12])
    def test_text(self, log: Log, seq: int) -> None:
        event_id = event_at(log, seq)
        log.behind(
            "UPDATE audit_events SET body = convert_to(replace(convert_from(body,"
            " 'UTF8'), '\"n\":1', '\"n\":2'), 'UTF8') WHERE event_id = %s",
            event_id,
        )
        finding = found(log)
        assert (finding.seq, finding.event_id) == (seq, event_id)
        assert finding.fault is Fault.ALTERED
        assert verify(log).events == seq - 1

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("event_time", "event_time + interval '1 microsecond'"),
            ("action", "'session.ended'"),
            ("user_id", "gen_random_uuid()"),
            ("user_id", "NULL"),
        ],
    )
    def test_a_column_that_it_is_searched_by(
        self, log: Log, column: str, value: str
    ) -> None:
        event_id = event_at(log, 7)
        log.behind(
            f"UPDATE audit_events SET {column} = {value} WHERE event_id = %s",  # noqa: S608 - as above
            event_id,
        )
        finding = found(log)
        assert (finding.event_id, finding.fault) == (event_id, Fault.ALTERED)
        assert f"its column {column} says" in finding.text

    @pytest.mark.parametrize(
        "change",
        [
            "SET body = replace(convert_from(body, 'UTF8'), '192', '193')::bytea",
            'SET body = \'{"email":"x"}\'::bytea',
            "SET body = '[]'::bytea",
            "SET body = '{\"ip\":1}'::bytea",
            "SET body = 'x'::bytea",
            "SET body = '\\xff'::bytea",
            "SET salt = sha256(salt)",
            "SET user_id = gen_random_uuid()",
        ],
    )
    def test_what_is_personal(self, log: Log, change: str) -> None:
        event_id = event_at(log, 2)
        log.behind(f"UPDATE audit_personal {change} WHERE event_id = %s", event_id)
        finding = found(log)
        assert (finding.event_id, finding.fault) == (event_id, Fault.ALTERED)

    @pytest.mark.parametrize("column", ["hash", "prev_hash"])
    def test_a_seal(self, log: Log, column: str) -> None:
        log.behind(
            f"UPDATE audit_seals SET {column} = sha256({column}) WHERE seq = 4"  # noqa: S608 - as above
        )
        assert (found(log).seq, found(log).fault) == (4, Fault.ALTERED)

    def test_one_that_was_sealed_anew(self, log: Log) -> None:
        log.behind(
            "UPDATE audit_events SET body = replace(convert_from(body, 'UTF8'),"
            " '\"n\":1', '\"n\":2')::bytea WHERE event_id = %s",
            event_at(log, 4),
        )
        before = log.seals()
        log.reseal(4)
        for row in before[4:]:
            log.behind(
                "UPDATE audit_seals SET prev_hash = %s, hash = %s WHERE seq = %s",
                row["prev_hash"],
                row["hash"],
                row["seq"],
            )
        finding = found(log)
        assert (finding.seq, finding.fault) == (4, Fault.ALTERED)
        assert finding.event_id == event_at(log, 4)
        assert "sealed anew" in finding.text


class TestRemoved:
    @pytest.mark.parametrize("seq", [1, 5, 6, 12])
    def test_the_event_alone(self, log: Log, seq: int) -> None:
        event_id = event_at(log, seq)
        log.behind("DELETE FROM audit_events WHERE event_id = %s", event_id)
        finding = found(log)
        assert (finding.seq, finding.event_id) == (seq, event_id)
        assert finding.fault is Fault.REMOVED

    @pytest.mark.parametrize("seqs", [(5,), (6, 7), (2, 3, 4, 5, 6, 7)])
    def test_with_its_seal(self, log: Log, seqs: tuple[int, ...]) -> None:
        remove(log, *seqs)
        finding = found(log)
        assert (finding.seq, finding.fault) == (seqs[0], Fault.REMOVED)
        assert event_at(log, seqs[-1] + 1) in finding.text

    @pytest.mark.parametrize("seqs", [(1,), (5,), (6, 7)])
    def test_with_the_gap_closed(self, log: Log, seqs: tuple[int, ...]) -> None:
        follower = event_at(log, seqs[-1] + 1)
        remove(log, *seqs)
        renumber(log, seqs[-1], -len(seqs))
        finding = found(log)
        assert (finding.seq, finding.fault) == (seqs[0], Fault.REMOVED)
        assert follower in finding.text

    @pytest.mark.parametrize("seqs", [(5,), (9, 10), (4, 5), (6, 7, 8, 9, 10)])
    def test_with_what_follows_relinked_over_the_gap(
        self, log: Log, seqs: tuple[int, ...]
    ) -> None:
        # The number goes from one link to the next, though no hash does.
        remove(log, *seqs)
        log.reseal(seqs[-1] + 1)
        log.behind("DELETE FROM audit_checkpoints")
        finding = found(log)
        assert (finding.seq, finding.fault) == (seqs[0], Fault.REMOVED)

    def test_with_a_checkpoints_link_and_the_gap_relinked(self, log: Log) -> None:
        remove(log, *range(6, 11))
        log.reseal(11)
        log.behind("DELETE FROM audit_checkpoints WHERE seq > 8")
        with log.database.read() as read:
            ends = audit_walk.bounds(read)
            assert ends is not None
            bounds = Bounds(first=ends[0], prev_hash=ends[1], last=ends[2])
            given = checkpoints.in_database(read)
            compared = checkpoints.compare(read, given, known_keys(read), bounds)
        assert compared.count == 0
        assert compared.finding is not None
        assert (compared.finding.seq, compared.finding.until) == (1, 8)
        assert compared.finding.fault is Fault.REMOVED
        assert (found(log).seq, found(log).fault) == (6, Fault.REMOVED)

    def test_one_that_was_not_sealed_yet(self, log: Log) -> None:
        (event_id,) = log.add(1)
        log.behind("DELETE FROM audit_events WHERE event_id = %s", event_id)
        finding = found(log)
        assert finding.fault is Fault.REMOVED
        assert finding.event_id == str(event_id)

    def test_the_beginning_without_a_checkpoint_that_says_so(self, log: Log) -> None:
        remove(log, *range(1, 6))
        finding = found(log, log.path)
        assert (finding.seq, finding.fault) == (1, Fault.REMOVED)
        assert "no signed checkpoint" in finding.text


class TestInserted:
    def test_an_event_without_a_seal(self, log: Log) -> None:
        event_id = insert(log)
        finding = found(log)
        assert (finding.fault, finding.event_id) == (Fault.INSERTED, event_id)

    @pytest.mark.parametrize("seq", [0, -7])
    def test_before_everything(self, log: Log, seq: int) -> None:
        log.behind("UPDATE audit_seals SET seq = %s WHERE seq = 1", seq)
        assert (found(log).seq, found(log).fault) == (seq, Fault.INSERTED)

    @pytest.mark.parametrize("seq", [1, 5, 6, 8])
    @pytest.mark.parametrize("how", ["well", "hash", "prev_hash"])
    def test_an_event_with_a_seal_in_the_middle(
        self, log: Log, seq: int, how: str
    ) -> None:
        event_id = insert(log)
        renumber(log, seq - 1, 1)
        before = log.sql.run("SELECT hash FROM audit_seals WHERE seq = %s", seq - 1)
        log.behind(
            "INSERT INTO audit_seals VALUES (%s, %s, %s, sha256('x'))",
            seq,
            event_id,
            before[0]["hash"] if before else bytes(32),
        )
        if how == "well":
            before_it = log.sql.run("SELECT * FROM audit_seals WHERE seq > %s", seq)
            log.reseal(seq)
            for row in before_it:
                restore(log, row)
        if how == "prev_hash":
            log.behind("UPDATE audit_seals SET prev_hash = hash WHERE seq = %s", seq)
        finding = found(log)
        assert (finding.seq, finding.fault) == (seq, Fault.INSERTED), finding
        assert finding.event_id == event_id


class TestReordered:
    @pytest.mark.parametrize("seq", [1, 4, 5, 11])
    def test_two_seals_with_each_others_events(self, log: Log, seq: int) -> None:
        ids = event_at(log, seq), event_at(log, seq + 1)
        swap(log, seq, "event_id")
        assert event_at(log, seq) == ids[1]
        finding = found(log)
        assert (finding.seq, finding.fault) == (seq, Fault.REORDERED)
        assert finding.event_id == ids[1]
        assert ids[0] in finding.text

    @pytest.mark.parametrize("seq", [1, 4, 5, 11])
    def test_two_links_with_each_others_numbers(self, log: Log, seq: int) -> None:
        ids = event_at(log, seq), event_at(log, seq + 1)
        swap(log, seq, "seq")
        finding = found(log)
        assert (finding.seq, finding.fault) == (seq, Fault.REORDERED)
        assert finding.event_id == ids[1]

    def test_a_link_at_the_end_that_was_in_the_middle(self, log: Log) -> None:
        event_id = event_at(log, 4)
        log.behind("UPDATE audit_seals SET seq = 99 WHERE seq = 4")
        finding = found(log)
        assert (finding.seq, finding.fault) == (4, Fault.REORDERED)
        assert finding.event_id == event_id
        assert "stands at 99" in finding.text


class TestTheTail:
    @pytest.mark.parametrize("file", [False, True])
    def test_cut_off_with_its_seals(self, log: Log, file: bool) -> None:
        remove(log, 11, 12)
        finding = found(log, log.path if file else None)
        assert (finding.seq, finding.fault) == (11, Fault.CUT)
        assert "the checkpoint at 12" in finding.text

    def test_cut_off_with_its_checkpoints_shows_by_the_file(self, log: Log) -> None:
        remove(log, 9, 10, 11, 12)
        log.behind("DELETE FROM audit_checkpoints WHERE seq > 8")
        # What was never said outside, nobody can know.
        assert verify(log).finding is None
        finding = found(log, log.path)
        assert (finding.seq, finding.fault) == (9, Fault.CUT)
        assert "line 2 of" in finding.text

    def test_of_the_seals_alone(self, log: Log) -> None:
        log.behind("DELETE FROM audit_seals WHERE seq > 10")
        assert (found(log).seq, found(log).fault) == (11, Fault.CUT)

    def test_everything(self, log: Log) -> None:
        for table in ("seals", "personal", "events", "checkpoints"):
            log.behind(f"DELETE FROM audit_{table}")  # noqa: S608 - as above
        assert verify(log).finding is None
        finding = found(log, log.path)
        assert (finding.seq, finding.fault) == (1, Fault.CUT)


class TestAChainMadeAnew:
    @pytest.mark.parametrize(("seq", "since", "line"), [(3, 1, 1), (10, 9, 2)])
    def test_it_contradicts_the_checkpoints(
        self, log: Log, seq: int, since: int, line: int
    ) -> None:
        forge(log, seq)
        finding = found(log)
        assert (finding.seq, finding.fault) == (since, Fault.REMADE)
        log.behind("DELETE FROM audit_checkpoints")
        assert verify(log).finding is None
        finding = found(log, log.path)
        assert (finding.seq, finding.fault) == (since, Fault.REMADE)
        assert f"line {line} of" in finding.text

    def test_with_the_personal_hashes_made_anew_too(self, log: Log) -> None:
        event_id = event_at(log, 3)
        row = log.sql.one(
            "SELECT e.body, p.salt FROM audit_events e JOIN audit_personal p"
            " USING (event_id) WHERE event_id = %s",
            event_id,
        )
        body = json.loads(row["body"])
        body["personal"]["ip"] = personal_hash(row["salt"], "ip", "203.0.113.9")
        text = json.dumps(body, separators=(",", ":"), sort_keys=True).encode()
        log.behind(
            "UPDATE audit_events SET body = %s WHERE event_id = %s", text, event_id
        )
        log.behind(
            "UPDATE audit_personal SET body = replace(convert_from(body, 'UTF8'),"
            " '192.0.2.7', '203.0.113.9')::bytea WHERE event_id = %s",
            event_id,
        )
        log.reseal(3)
        log.behind("DELETE FROM audit_checkpoints")
        assert verify(log).finding is None
        assert found(log, log.path).fault is Fault.REMADE


class TestCheckpoints:
    def test_one_that_nobody_signed(self, log: Log) -> None:
        log.behind(
            "UPDATE audit_checkpoints SET body = replace(convert_from(body, 'UTF8'),"
            " '\"seq\":8', '\"seq\":7')::bytea WHERE seq = 8"
        )
        finding = found(log)
        assert (finding.seq, finding.fault) == (8, Fault.FORGED)
        assert "its signature does not hold" in finding.text

    def test_one_in_anothers_place(self, log: Log) -> None:
        log.behind("UPDATE audit_checkpoints SET seq = 5 WHERE seq = 8")
        assert found(log).text == "the checkpoint at 5: it is about 8"

    def test_one_under_a_key_that_is_not_known(self, log: Log) -> None:
        assert Verification(log.database, keys={}).run().finding is not None

    def test_one_under_a_key_with_anothers_id(self, log: Log) -> None:
        log.behind("UPDATE signing_keys SET public_key = sha256(public_key)")
        assert log.keyring.evidence_jwks() == []
        finding = found(log)
        assert finding.fault is Fault.FORGED
        assert "is not among those given" in finding.text

    def test_a_receipt_is_none(self, log: Log) -> None:
        body = {"seq": 12, "hash": log.seals()[-1]["hash"].hex()}
        receipt = sign(log.keyring.evidence, Kind.RECEIPT, body)
        log.path.write_bytes(log.path.read_bytes() + receipt + b"\n")
        assert "it is a receipt, and no checkpoint" in found(log, log.path).text

    @pytest.mark.parametrize(
        "change",
        [
            lambda lines: [*lines, lines[0]],
            lambda lines: [lines[1], lines[0]],
            lambda lines: [lines[0], b"{}", lines[1]],
            lambda lines: [lines[0].replace(b'"', b" ", 1), lines[1]],
            lambda lines: [b"x" * checkpoints.MAX_LINE_BYTES * 2, *lines],
            lambda lines: [b"", *lines],
            lambda lines: [lines[0] + b" ", lines[1]],
        ],
    )
    def test_a_file_that_is_not_as_it_was_written(
        self, log: Log, change: Callable[[list[bytes]], list[bytes]]
    ) -> None:
        lines = log.path.read_bytes().splitlines()
        log.path.write_bytes(b"".join(line + b"\n" for line in change(lines)))
        finding = found(log, log.path)
        assert finding.fault is Fault.FORGED
        assert "line " in finding.text

    def test_a_line_that_is_being_written_does_not_count(self, log: Log) -> None:
        log.path.write_bytes(log.path.read_bytes() + b'{"body":')
        assert verify(log, log.path).finding is None

    def test_a_file_that_is_not_there_is_an_error(self, log: Log) -> None:
        with pytest.raises(FileNotFoundError):
            verify(log, log.path.with_name("no"))


class TestRetention:
    def test_a_chain_that_begins_at_a_signed_checkpoint_is_whole(
        self, log: Log
    ) -> None:
        remove(log, *range(1, 9))
        seen = verify(log, log.path)
        assert (seen.finding, seen.first, seen.events) == (None, 9, 4)
        assert verify(log, jobs=2).finding is None

    def test_the_checkpoint_may_be_in_the_file_alone(self, log: Log) -> None:
        remove(log, *range(1, 9))
        log.behind("DELETE FROM audit_checkpoints WHERE seq = 8")
        assert found(log).fault is Fault.REMOVED
        assert verify(log, log.path).finding is None

    def test_it_must_follow_on_what_the_checkpoint_covers(self, log: Log) -> None:
        remove(log, *range(1, 9))
        log.reseal(9)
        finding = found(log)
        assert (finding.seq, finding.fault) == (1, Fault.REMOVED)


def remove(log: Log, *seqs: int) -> None:
    """Removes events, and all that is known of them."""
    for seq in seqs:
        event_id = event_at(log, seq)
        for table in ("seals", "personal", "events"):
            log.behind(f"DELETE FROM audit_{table} WHERE event_id = %s", event_id)  # noqa: S608 - as above


def renumber(log: Log, after: int, by: int) -> None:
    """Moves the links after a number."""
    log.behind("UPDATE audit_seals SET seq = seq + 1000 WHERE seq > %s", after)
    log.behind("UPDATE audit_seals SET seq = seq - 1000 + %s WHERE seq > 1000", by)


def insert(log: Log) -> str:
    """An event that looks like every other, which no trigger has seen."""
    row = log.behind(
        "INSERT INTO audit_events SELECT gen_random_uuid(), event_time, action,"
        " user_id, body FROM audit_events LIMIT 1 RETURNING event_id"
    )[0]
    event_id = str(row["event_id"])
    log.behind(
        "UPDATE audit_events SET body = convert_to(regexp_replace(convert_from(body,"
        " 'UTF8'), '(\"event_id\":\")[^\"]*', '\\1' || event_id), 'UTF8')"
        " WHERE event_id = %s",
        event_id,
    )
    return event_id


def restore(log: Log, row: dict[str, object]) -> None:
    """Puts back the seals that were made anew after a link."""
    log.behind(
        "UPDATE audit_seals SET prev_hash = %s, hash = %s WHERE seq = %s",
        row["prev_hash"],
        row["hash"],
        row["seq"],
    )


def swap(log: Log, seq: int, column: str) -> None:
    """Two links that follow on each other change something."""
    one, other = (
        log.sql.one("SELECT * FROM audit_seals WHERE seq = %s", each)
        for each in (seq, seq + 1)
    )
    log.behind("DELETE FROM audit_seals WHERE seq IN (%s, %s)", seq, seq + 1)
    one[column], other[column] = other[column], one[column]
    for row in (one, other):
        log.behind("INSERT INTO audit_seals VALUES (%s, %s, %s, %s)", *row.values())


def forge(log: Log, seq: int) -> None:
    """Changes an event and makes the whole chain anew behind it."""
    log.behind(
        "UPDATE audit_events SET body = replace(convert_from(body, 'UTF8'),"
        " '\"n\":1', '\"n\":2')::bytea WHERE event_id = %s",
        event_at(log, seq),
    )
    log.reseal(seq)
