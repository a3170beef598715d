"""Sign-in messages: the text that a wallet shows and signs (CAIP-122).

The grammar is that of EIP-4361 and Sign-In With Solana, matched as a whole: nothing is
trimmed, skipped or read twice, so what the person saw is what the service reads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pourtier_grpc.auth.wallets.times import MessageTime
from pourtier_grpc.errors import ErrorReason, PourtierError

# The contract's bound on what a proof may have signed.
MAX_SIGNED_BYTES: Final = 4096

# RFC 3986, appendix A. Classes are spelled out because `\d` and `\w` match far more
# than ASCII. No alternative begins like its neighbour, so that matching is linear.
_UNRESERVED = r"A-Za-z0-9\-._~"
_SUB_DELIMS = r"!$&'()*+,;="
_ESCAPED = r"%[0-9A-Fa-f]{2}"
_PCHARS = rf"(?:[{_UNRESERVED}{_SUB_DELIMS}:@]|{_ESCAPED})*"
_SEGMENTS = rf"(?:[{_UNRESERVED}{_SUB_DELIMS}:@/]|{_ESCAPED})*"
_QUERY = rf"(?:[{_UNRESERVED}{_SUB_DELIMS}:@/?]|{_ESCAPED})*"
_AUTHORITY = (
    rf"(?:(?:[{_UNRESERVED}{_SUB_DELIMS}:]|{_ESCAPED})*@)?"
    rf"(?:\[[{_UNRESERVED}{_SUB_DELIMS}:]+\]"
    rf"|(?:[{_UNRESERVED}{_SUB_DELIMS}]|{_ESCAPED})*)"
    r"(?::[0-9]*)?"
)
_SCHEME = r"[A-Za-z][A-Za-z0-9+\-.]*"
_URI = (
    rf"{_SCHEME}:(?://{_AUTHORITY}(?:/{_SEGMENTS})?|(?!//){_SEGMENTS})"
    rf"(?:\?{_QUERY})?(?:\#{_QUERY})?"
)
_ORIGIN = re.compile(rf"{_SCHEME}://{_AUTHORITY}(?=[/?#]|\Z)")

# One line: no control character and neither of Unicode's own line breaks.
_STATEMENT = "[^\x00-\x1f\x7f-\x9f\u2028\u2029]+"
# Only the characters of a time; MessageTime.read decides.
_TIME = r"[0-9TtZz:.+\-]{20,35}"
_NONCE = r"[A-Za-z0-9]{8,}"

_HEADER = " wants you to sign in with your {title} account:"
_NAMED = re.compile(
    rb"[^\n]{1,255}" + _HEADER.format(title=r"([A-Za-z]{1,32})").encode() + rb"(?=\n)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInMessage:
    """A sign-in message, taken apart; None stands for a field that is not there.

    `address` and `chain_id` are as written; `resources` may be there and empty.
    """

    domain: str
    address: str
    statement: str | None = None
    uri: str | None = None
    version: str | None = None
    chain_id: str | None = None
    nonce: str | None = None
    issued_at: MessageTime | None = None
    expiration_time: MessageTime | None = None
    not_before: MessageTime | None = None
    request_id: str | None = None
    resources: tuple[str, ...] | None = None


class SignInGrammar:
    """The text form of one chain's sign-in messages (CAIP-122, "Message Format").

    `chain` is Pourtier's name for the chain and `title` the messages' own. `address`
    and `chain_id` are regular expressions for these two fields, both bounded. That of
    the address is its form alone; whether it is an address is for `public_key` to say.
    """

    def __init__(self, *, chain: str, title: str, address: str, chain_id: str) -> None:
        self._chain = chain
        self._header = _HEADER.format(title=title)
        fields = {
            "URI": rf"(?P<uri>{_URI})",
            "Version": r"(?P<version>1)",
            "Chain ID": rf"(?P<chain_id>{chain_id})",
            "Nonce": rf"(?P<nonce>{_NONCE})",
            "Issued At": rf"(?P<issued_at>{_TIME})",
            "Expiration Time": rf"(?P<expiration_time>{_TIME})",
            "Not Before": rf"(?P<not_before>{_TIME})",
            "Request ID": rf"(?P<request_id>{_PCHARS})",
        }
        labels = "|".join((*fields, "Resources"))
        self._pattern = re.compile(
            rf"(?=[^ ]{{1,255}} )(?P<domain>{_AUTHORITY}){re.escape(self._header)}"
            rf"\n(?P<address>{address})"
            # A line that reads as a field is no statement: the person would be shown
            # one thing and the service told another.
            rf"(?:\n\n(?!(?:{labels}):)(?P<statement>{_STATEMENT}))?"
            # The blank line before the fields; without a field there is none.
            r"(?:\n(?=\n)"
            + "".join(f"(?:\n{label}: {value})?" for label, value in fields.items())
            + rf"(?P<resources>\nResources:(?:\n- {_URI})*)?)?"
        )

    def text(self, signed: bytes) -> str:
        """The signed bytes as text, which is UTF-8 and nothing around it.

        Raises MALFORMED_MESSAGE for other bytes and for more of them than the contract
        allows.
        """
        if len(signed) > MAX_SIGNED_BYTES:
            raise malformed_message(self._chain)
        try:
            return signed.decode()
        except UnicodeDecodeError as error:
            raise malformed_message(self._chain) from error

    def parse(self, text: str) -> SignInMessage:
        """Takes a text apart; `write` of the answer is the text again.

        Raises MALFORMED_MESSAGE where the whole text is not a message of the chain.
        """
        found = self._pattern.fullmatch(text)
        if found is None:
            raise malformed_message(self._chain)
        return SignInMessage(
            domain=found["domain"],
            address=found["address"],
            statement=found["statement"],
            uri=found["uri"],
            version=found["version"],
            chain_id=found["chain_id"],
            nonce=found["nonce"],
            issued_at=self._time(found["issued_at"]),
            expiration_time=self._time(found["expiration_time"]),
            not_before=self._time(found["not_before"]),
            request_id=found["request_id"],
            resources=_resources(found["resources"]),
        )

    def write(self, message: SignInMessage) -> str:
        """The text of a message; `parse` of it is the message again.

        Raises ValueError for a message that no text of the grammar stands for, such as
        one with a statement of two lines: those who write messages are of this service.
        """
        text = "\n".join((message.domain + self._header, *_lines(message)))
        try:
            same = self.parse(text) == message
        except PourtierError:
            same = False
        if not same:
            raise ValueError(f"not a sign-in message of {self._chain}")
        return text

    def _time(self, text: str | None) -> MessageTime | None:
        if text is None:
            return None
        time = MessageTime.read(text)
        if time is None:
            raise malformed_message(self._chain)
        return time


def malformed_message(chain: str) -> PourtierError:
    """The refusal of bytes that are no sign-in message of a chain."""
    return PourtierError(
        ErrorReason.ERROR_REASON_MALFORMED_MESSAGE,
        "the signed text is not a sign-in message of {chain}",
        chain=chain,
    )


def named_chain(signed: bytes) -> str | None:
    """The chain that the first line of signed bytes names, in lower case, or None."""
    found = _NAMED.match(signed)
    return None if found is None else found[1].decode().lower()


def origin_of(uri: str) -> str | None:
    """The part of a URI before its path, as written (`https://app.lumiere.trade`).

    It holds the whole authority, user information included, which no origin of a
    browser has. None where the URI has no authority.
    """
    found = _ORIGIN.match(uri)
    return None if found is None else found[0]


def _lines(message: SignInMessage) -> list[str]:
    """What follows the first line."""
    lines = [message.address]
    if message.statement is not None:
        lines += ["", message.statement]
    fields = _fields(message)
    if fields:
        lines += ["", *fields]
    return lines


def _fields(message: SignInMessage) -> list[str]:
    values = {
        "URI": message.uri,
        "Version": message.version,
        "Chain ID": message.chain_id,
        "Nonce": message.nonce,
        "Issued At": _text(message.issued_at),
        "Expiration Time": _text(message.expiration_time),
        "Not Before": _text(message.not_before),
        "Request ID": message.request_id,
    }
    lines = [
        f"{label}: {value}" for label, value in values.items() if value is not None
    ]
    if message.resources is not None:
        lines += ["Resources:", *(f"- {uri}" for uri in message.resources)]
    return lines


def _text(time: MessageTime | None) -> str | None:
    return None if time is None else time.text


def _resources(lines: str | None) -> tuple[str, ...] | None:
    return None if lines is None else tuple(lines.split("\n- ")[1:])
