"""The audit log, as an administrator reads it."""

from __future__ import annotations

from uuid import UUID

from pourtier.v1 import compliance_service_pb2 as pb
from pourtier_grpc.store import pages
from pourtier_grpc.store.audit_reader import AuditFilter, AuditReader
from pourtier_grpc.store.pages import Place
from pourtier_grpc.times import moment, optional_moment

MAX_PAGE = 200


class AuditTrail:
    """Lists what happened."""

    def __init__(self, *, reader: AuditReader) -> None:
        self._reader = reader

    def page(self, request: pb.ListAuditEventsRequest) -> pb.ListAuditEventsResponse:
        """A page of events, the newest first. Raises INVALID_PAGE_TOKEN."""
        wanted = AuditFilter(
            user_id=UUID(request.user_id) if request.user_id else None,
            action=request.action or None,
            event_from=optional_moment(request, "event_from"),
            event_before=optional_moment(request, "event_before"),
        )
        filters = ("audit", wanted)
        page = pages.read_page(
            request.page_size, request.page_token, filters, most=MAX_PAGE
        )
        events = self._reader.page(wanted, page)
        shown, token = pages.end_page(page, events, _place_of, filters)
        return pb.ListAuditEventsResponse(events=shown, next_page_token=token)


def _place_of(event: pb.AuditEvent) -> Place:
    return Place(moment(event.event_time), UUID(event.event_id))
