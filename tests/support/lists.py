"""ListUsers, as an administrator calls it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from pourtier.v1 import user_service_pb2 as user_pb
from support.service import Service


def page(
    service: Service, credential: tuple[str, str], **fields: Any
) -> user_pb.ListUsersResponse:
    request = user_pb.ListUsersRequest(**fields)
    return service.api.call(service.api.users.ListUsers, request, credential)


def ids(answer: user_pb.ListUsersResponse) -> list[str]:
    return [user.user_id for user in answer.users]


def every(service: Service, credential: tuple[str, str], **fields: Any) -> list[str]:
    """The ids of a whole list, a page after the other."""
    found: list[str] = []
    token = ""
    while not found or token:
        answer = page(service, credential, page_token=token, **fields)
        found += ids(answer)
        token = answer.next_page_token
        if not answer.users:
            break
    return found


def at(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
