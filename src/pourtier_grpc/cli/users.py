"""`pourtier user`: roles, suspensions, and a look at an account."""

from __future__ import annotations

from uuid import UUID

import click
from google.protobuf.json_format import MessageToJson

from pourtier.v1.user_pb2 import User
from pourtier_grpc.caller import Act
from pourtier_grpc.cli.accounts import account_of
from pourtier_grpc.cli.parts import parts
from pourtier_grpc.cli.reasons import reason_option
from pourtier_grpc.users.admin import ROLES

role_argument = click.argument("role", type=click.Choice(ROLES))


@click.group()
def user() -> None:
    """Accounts. WHO is a user id or a wallet address."""


@user.command("show")
@click.argument("who")
def user_show(who: str) -> None:
    """Print an account, as JSON."""
    with parts() as made:
        _print(account_of(made, who))


@user.command("grant-role")
@click.argument("who")
@role_argument
@reason_option
def user_grant_role(who: str, role: str, reason: str) -> None:
    """Give a role: the only way in which the first admin comes to be."""
    with parts() as made:
        user_id = UUID(account_of(made, who).user_id)
        _print(made.administration.grant_role(user_id, role, _act(reason)))


@user.command("revoke-role")
@click.argument("who")
@role_argument
@reason_option
def user_revoke_role(who: str, role: str, reason: str) -> None:
    """Take a role. The last active admin keeps it."""
    with parts() as made:
        user_id = UUID(account_of(made, who).user_id)
        _print(made.administration.revoke_role(user_id, role, _act(reason)))


@user.command("suspend")
@click.argument("who")
@reason_option
def user_suspend(who: str, reason: str) -> None:
    """Suspend an account: its sessions end, and nobody can sign in to it."""
    with parts() as made:
        user_id = UUID(account_of(made, who).user_id)
        _print(made.administration.suspend(user_id, _act(reason)).user)


@user.command("reinstate")
@click.argument("who")
@reason_option
def user_reinstate(who: str, reason: str) -> None:
    """End a suspension."""
    with parts() as made:
        user_id = UUID(account_of(made, who).user_id)
        _print(made.administration.reinstate(user_id, _act(reason)).user)


def _act(reason: str) -> Act:
    return Act(reason=reason)


def _print(found: User) -> None:
    click.echo(MessageToJson(found, preserving_proto_field_name=True))
