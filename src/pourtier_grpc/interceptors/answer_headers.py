"""The headers of a successful answer, sent once for all who have any to send."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from pourtier_grpc.call import Call, Handler, Method
from pourtier_grpc.interceptors.entry import REQUEST_ID


def answer_headers(method: Method, handler: Handler) -> Handler:
    """Sends the request id and `Call.headers`, once the servicer has answered."""

    def handle(request: Any, call: Call) -> Message:
        response = handler(request, call)
        call.context.send_initial_metadata(
            ((REQUEST_ID, call.client.request_id), *call.headers)
        )
        return response

    return handle
