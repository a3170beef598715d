"""The W3C Trace Context headers of a call."""

from __future__ import annotations

import pytest
from opentelemetry.trace import TraceState

from pourtier_grpc.telemetry.tracing import Parent, parent_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        # Other flags say nothing of sampling; later versions may append.
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f"01-{TRACE}-{SPAN}-01-what-may-come", True),
    ],
)
def test_a_parent_is_read(header: str, sampled: bool) -> None:
    assert parent_of([("traceparent", header)]) == Parent(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01\n",
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0g",
        b"00",
    ],
)
def test_what_is_no_header_of_the_standard_is_no_parent(header: str | bytes) -> None:
    assert parent_of([("traceparent", header)]) is None


def test_two_headers_are_none() -> None:
    header = ("traceparent", f"00-{TRACE}-{SPAN}-01")
    assert parent_of([header, header]) is None


def test_states_are_one_list() -> None:
    metadata = [
        ("tracestate", "a=1"),
        ("traceparent", f"00-{TRACE}-{SPAN}-01"),
        ("tracestate", "b=2"),
    ]
    assert parent_of(metadata) == Parent(TRACE, SPAN, sampled=True, state="a=1,b=2")


def test_of_a_stranger_the_ids_alone_are_believed() -> None:
    for flags in ("00", "01"):
        header = ("traceparent", f"00-{TRACE}-{SPAN}-{flags}")
        parent = parent_of([header, ("tracestate", "a=1")])
        assert parent is not None
        assert parent.of_a_stranger() == Parent(TRACE, SPAN, sampled=None, state="")


GOOD_STATES = [
    "a=1",
    "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7",
    "a=1 , \tb=2",
    "a=1,,b=2,",
    "0tenant/x_y-z*@vendor=!+-<>~ .",
    ",".join(f"k{n}=v" for n in range(32)),
    "a=" + "x" * 256,
    "a=" + "x" * 253 + ",b=" + "y" * 254,
]
BAD_STATES = [
    "no member",
    "a=1;b=2",
    "A=1",
    "a=",
    "a=b=c",
    "a=ä",
    "a=1\nforged: line",
    "a=" + "x" * 257,
    "a" * 257 + "=1",
    "a@b@c=1",
    "1a=1",
    ",".join(f"k{n}=v" for n in range(33)),
    "a=" + "x" * 254 + ",b=" + "y" * 254,
    "a=1," * 4000,
    "a=" + " " * 255 + "," * 2000,
    "junk " * 3000,
]


def state_of(sent: str) -> str:
    metadata = [("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", sent)]
    parent = parent_of(metadata)
    assert parent is not None
    return parent.state


@pytest.mark.parametrize("sent", GOOD_STATES)
def test_a_state_is_passed_on_as_opentelemetry_reads_it(
    sent: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert state_of(sent) == sent
    read = TraceState.from_header([state_of(sent)])
    assert len(read) == sum("=" in member for member in sent.split(","))
    assert caplog.records == []


@pytest.mark.parametrize("sent", BAD_STATES)
def test_what_is_no_state_is_left_out_and_logged_nowhere(
    sent: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert state_of(sent) == ""
    assert len(TraceState.from_header([state_of(sent)])) == 0
    assert caplog.records == []


def test_without_the_header_there_is_no_parent() -> None:
    assert parent_of([("tracestate", "a=1"), ("other", b"")]) is None
