"""Screened wallets: who is one, and what a list that is in disorder does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pourtier_grpc.compliance import screening
from pourtier_grpc.compliance.screening import Screening
from pourtier_grpc.config import ConfigError, load
from pourtier_grpc.errors import ErrorReason, PourtierError

ONE = "AKnL4NNf3DGWZJS6cPknBuEGnVsV4A4m5tgebLHaRSZ9"
OTHER = "9hSR6S7WPtxmTojgo6GG3k4yDPecgJY292j7xrsUGWBu"
THIRD = "GyGKxMyg1p9SsHfm15MkNUu1u9TN2JtTspcdmrtGUdse"
# Off the curve, as half of all slips of the pen are.
OFF_CURVE = "8qbHbw2BbbTHBW1sbeqakYXVKRQM8Ne7pLK7m6CVfeR"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "screened.txt"


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with capture_logs() as caught:
        yield caught


def refusal(**values: Any) -> str:
    with pytest.raises(ConfigError) as info:
        Screening(**{"addresses": (), "file": None, **values})
    return str(info.value)


def refreshed(made: Screening) -> Screening:
    """After as many looks as it takes to believe a file."""
    made.refresh()
    made.refresh()
    return made


class TestWho:
    def test_the_wallets_of_setting_and_file_are_screened_and_no_others(
        self, file: Path
    ) -> None:
        file.write_text(f"{OTHER}\n")
        made = Screening(addresses=(ONE,), file=file)
        assert made.is_screened([ONE])
        assert made.is_screened([THIRD, OTHER])
        assert not made.is_screened([THIRD])
        assert not made.is_screened([])

    def test_without_a_list_nobody_is(self) -> None:
        made = refreshed(Screening(addresses=(), file=None))
        assert not made.is_screened([ONE])
        made.refuse(ONE)

    def test_a_refusal_does_not_name_the_wallet(self) -> None:
        made = Screening(addresses=(ONE,), file=None)
        made.refuse(OTHER)
        with pytest.raises(PourtierError) as info:
            made.refuse(ONE)
        assert info.value.reason == ErrorReason.ERROR_REASON_WALLET_SCREENED
        assert info.value.metadata == {}
        assert ONE not in info.value.message

    def test_a_file_has_comments_empty_lines_and_any_line_ends(
        self, file: Path
    ) -> None:
        lines = [f"# {THIRD}", "", f"  {ONE}\t# since May", f"{OTHER}", ""]
        file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
        made = Screening(addresses=(), file=file)
        assert made.is_screened([ONE])
        assert made.is_screened([OTHER])
        assert not made.is_screened([THIRD])


class TestStart:
    @pytest.mark.parametrize("address", ["x", f"{ONE}1", OFF_CURVE, ONE.lower(), "0x1"])
    def test_a_mistyped_address_stops_it_and_is_not_repeated(
        self, file: Path, address: str
    ) -> None:
        said = refusal(addresses=(ONE, address))
        assert said.startswith("SCREENED_WALLETS, address 2, is refused: ")
        assert address not in said.removeprefix("SCREENED_WALLETS")
        file.write_text(f"# a comment\n{ONE}\n{address}\n")
        said = refusal(file=file)
        assert said.startswith(f"SCREENED_WALLETS_FILE={file}, line 3, is refused: ")
        assert address not in said.removeprefix(f"SCREENED_WALLETS_FILE={file}")

    def test_a_file_that_cannot_be_read_stops_it(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = f"SCREENED_WALLETS_FILE={file}"
        said = refusal(file=file)
        assert said == f"{name} cannot be read: No such file or directory"
        file.mkdir()
        assert refusal(file=file) == f"{name} is not a file"
        file.rmdir()
        file.write_bytes(b"\xff")
        assert refusal(file=file) == f"{name} is not UTF-8"
        monkeypatch.setattr(screening, "MAX_FILE_BYTES", 4)
        file.write_text("#####")
        assert refusal(file=file) == f"{name} is longer than 4 bytes"

    @pytest.mark.parametrize("content", ["", ONE, f"{ONE}\n{OTHER}", f"{ONE}\n#"])
    def test_a_file_that_may_have_been_cut_stops_it(
        self, file: Path, content: str
    ) -> None:
        file.write_text(content)
        said = refusal(file=file)
        assert said.endswith("does not end with the end of a line: is it whole?")

    def test_the_setting_is_a_list_with_commas(
        self, monkeypatch: pytest.MonkeyPatch, file: Path
    ) -> None:
        monkeypatch.setenv("SCREENED_WALLETS", f" {ONE},{OTHER} ,")
        monkeypatch.setenv("SCREENED_WALLETS_FILE", str(file))
        settings = load()
        assert settings.screened_wallets == (ONE, OTHER)
        assert settings.screened_wallets_file == file


class TestFollowing:
    @pytest.fixture
    def made(self, file: Path) -> Screening:
        file.write_text(f"{ONE}\n")
        return Screening(addresses=(THIRD,), file=file)

    def test_a_change_is_taken_and_the_setting_stays(
        self, made: Screening, file: Path, logs: list[Any]
    ) -> None:
        file.write_text(f"{OTHER}\n")
        refreshed(made)
        assert made.is_screened([OTHER])
        assert made.is_screened([THIRD])
        assert not made.is_screened([ONE])
        assert [(each["event"], each["count"]) for each in logs] == [
            ("took new screened wallets", 2)
        ]

    def test_a_file_half_written_is_not_taken(
        self, made: Screening, file: Path
    ) -> None:
        for content in ("", f"{OTHER}\n", f"{OTHER}\n{ONE}\n"):
            file.write_text(content)
            made.refresh()
            assert made.is_screened([ONE])
            assert not made.is_screened([OTHER])
        made.refresh()
        assert made.is_screened([OTHER])

    @pytest.mark.parametrize("content", [f"{OTHER}\nx\n".encode(), b"\xff", None])
    def test_what_cannot_be_used_leaves_the_old_list_and_is_said_once(
        self, made: Screening, file: Path, logs: list[Any], content: bytes | None
    ) -> None:
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        for _ in range(3):
            refreshed(made)
        assert made.is_screened([ONE])
        assert not made.is_screened([OTHER])
        (said,) = logs
        assert said["event"] == "kept the old screened wallets"
        assert said["reason"].startswith(f"SCREENED_WALLETS_FILE={file}")
        file.write_text(f"{OTHER}\n")
        refreshed(made)
        assert made.is_screened([OTHER])
        assert not made.is_screened([ONE])

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            ("", "end of a line"),
            (f"{ONE}", "end of a line"),
            ("\n", "no address any more"),
            ("# nothing\n", "no address any more"),
            (f"# {ONE}\n", "no address any more"),
        ],
    )
    def test_a_list_that_lost_its_content_is_not_taken(
        self, made: Screening, file: Path, logs: list[Any], content: str, why: str
    ) -> None:
        file.write_text(content)
        refreshed(made)
        assert made.is_screened([ONE])
        (said,) = logs
        assert said["event"] == "kept the old screened wallets"
        assert why in said["reason"]

    def test_a_list_that_shrinks_is_told_of_and_may_say_that_it_is_empty(
        self, made: Screening, file: Path, logs: list[Any]
    ) -> None:
        file.write_text(f"{ONE}\n{OTHER}\n")
        refreshed(made)
        for content in (f"{ONE}\n", "# empty\n"):
            file.write_text(content)
            refreshed(made)
        assert not made.is_screened([ONE, OTHER])
        assert made.is_screened([THIRD])
        told = [(each["log_level"], each["before"], each["count"]) for each in logs]
        assert told == [("info", 2, 3), ("warning", 3, 2), ("warning", 2, 1)]

    def test_the_same_fault_is_said_again_after_it_was_mended(
        self, made: Screening, file: Path, logs: list[Any]
    ) -> None:
        for content in ("x", f"{ONE}\n", "x"):
            file.write_text(content)
            refreshed(made)
        assert [each["log_level"] for each in logs] == ["warning", "warning"]

    def test_no_line_of_the_log_names_a_wallet(
        self, made: Screening, file: Path, logs: list[Any]
    ) -> None:
        for content in (f"{OTHER}\n", f"{OTHER}1\n", f"{OTHER} {ONE}\n"):
            file.write_text(content)
            refreshed(made)
        assert len(logs) == 2
        assert OTHER not in str(logs)
