"""Why an operator does something, as the audit log is to keep it."""

from __future__ import annotations

from uuid import UUID

import click
import protovalidate

from pourtier.v1.user_service_pb2 import SuspendUserRequest


class Reason(click.ParamType[str]):
    """A text as the contract wants an admin's."""

    name = "text"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """The text itself; fails where an RPC would refuse it too."""
        try:
            request = SuspendUserRequest(user_id=str(UUID(int=0)), reason=value)
        except ValueError:
            self.fail("it is not text", param, ctx)
        if protovalidate.collect_violations(request):
            self.fail(
                "it must be a line of at most 500 characters, without control "
                "characters, and without white space at its ends",
                param,
                ctx,
            )
        return value


reason_option = click.option(
    "--reason", type=Reason(), required=True, help="Why, for the audit log."
)
