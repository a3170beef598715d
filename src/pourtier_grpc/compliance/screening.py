"""Wallets that the platform does not serve: which they are, and who is one of them.

Some stand in a setting, some in a file that somebody else keeps up to date. The file is
read again every second, whole, so that it does not matter how it was replaced. What
cannot be used is never taken: the process goes on with the list that it had. Nor is
what looks like a file that lost its content: one whose last line has no end, or one
that has no address any more and does not say by a line `# empty` that this is meant.

No error and no log line quotes an address of a list; they name its place.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog

from pourtier_grpc.auth.wallets import chain_of
from pourtier_grpc.config import ConfigError
from pourtier_grpc.errors import ErrorReason, PourtierError

SETTING = "SCREENED_WALLETS"
FILE_SETTING = "SCREENED_WALLETS_FILE"
# Some 90,000 addresses.
MAX_FILE_BYTES = 4 * 1024 * 1024
MEANT_EMPTY = re.compile(rb"^[ \t]*#[ \t]*empty[ \t\r]*$", re.MULTILINE)

_log = structlog.get_logger("pourtier.screening")


class Screening:
    """Knows the screened wallets, as setting and file have them.

    `file` is None where there is none. Raises ConfigError, with a sentence that names
    setting and place, where the file cannot be read, or an address is none that could
    sign in: it has been mistyped, and would screen nobody.
    """

    def __init__(self, *, addresses: Iterable[str], file: Path | None) -> None:
        numbered = enumerate(addresses, start=1)
        places = ((f"{SETTING}, address {at},", address) for at, address in numbered)
        self._fixed = _checked(places, frozenset())
        self._file = file
        self._taken = b"" if file is None else _read(file)
        self._listed = self._of_file(self._taken, known=frozenset())
        self._screened = self._fixed | self._listed
        self._seen = self._taken
        self._judged = self._taken
        self._refused: str | None = None

    def refresh(self) -> None:
        """Takes the file as it is now, if it has changed and is in order.

        It is taken when it has been seen twice alike: a file that is being written in
        place is a list that lacks its end. A refusal is logged once, until there is
        another or the file is in order.
        """
        if self._file is None:
            return
        try:
            self._follow(_read(self._file))
        except ConfigError as error:
            if str(error) != self._refused:
                self._refused = str(error)
                _log.warning("kept the old screened wallets", reason=self._refused)

    def is_screened(self, addresses: Iterable[str]) -> bool:
        """Whether one of these wallets is not served."""
        return not self._screened.isdisjoint(addresses)

    def refuse(self, address: str) -> None:
        """Raises WALLET_SCREENED where a wallet is not served.

        The error does not name the wallet: whoever is refused knows it, and no log
        becomes a list of the screened.
        """
        if self.is_screened((address,)):
            raise PourtierError(
                ErrorReason.ERROR_REASON_WALLET_SCREENED,
                "the platform does not serve this wallet",
            )

    def _follow(self, content: bytes) -> None:
        settled, self._seen = content == self._seen, content
        if content == self._taken:
            self._judged, self._refused = content, None
        elif settled and content != self._judged:
            self._judged = content
            # What was good before is not checked again: a check takes some 70 µs.
            listed = self._of_file(content, known=self._screened)
            if self._listed and not listed and not MEANT_EMPTY.search(content):
                raise ConfigError(
                    f"{FILE_SETTING}={self._file} has no address any more: if that is "
                    "meant, it must have a line `# empty`"
                )
            self._take(listed)
            self._taken, self._refused = content, None

    def _take(self, listed: frozenset[str]) -> None:
        before = len(self._screened)
        self._listed, self._screened = listed, self._fixed | listed
        count = len(self._screened)
        log = _log.warning if count < before else _log.info
        log("took new screened wallets", count=count, before=before)

    def _of_file(self, content: bytes, known: frozenset[str]) -> frozenset[str]:
        if self._file is None:
            return frozenset()
        return _checked(_lines(f"{FILE_SETTING}={self._file}", content), known)


def _read(file: Path) -> bytes:
    name = f"{FILE_SETTING}={file}"
    try:
        # Opening a pipe would wait for a writer.
        if not stat.S_ISREG(file.stat().st_mode):
            raise ConfigError(f"{name} is not a file")
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{name} is longer than {MAX_FILE_BYTES} bytes")
    return content


def _lines(name: str, content: bytes) -> Iterator[tuple[str, str]]:
    """The addresses of a file and their places; a `#` begins a comment."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{name} is not UTF-8") from None
    if not text.endswith("\n"):
        raise ConfigError(f"{name} does not end with the end of a line: is it whole?")
    for number, line in enumerate(text.split("\n"), start=1):
        if address := line.partition("#")[0].strip():
            yield f"{name}, line {number},", address


def _checked(
    places: Iterable[tuple[str, str]], known: frozenset[str]
) -> frozenset[str]:
    """The addresses of a list. Raises ConfigError for one that could not sign in."""
    found = set()
    for place, address in places:
        if address not in known:
            try:
                chain_of(address, b"").public_key(address)
            except PourtierError as error:
                raise ConfigError(f"{place} is refused: {error.message}") from None
        found.add(address)
    return frozenset(found)
