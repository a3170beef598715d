"""The command `pourtier`.

What was asked for goes to stdout, everything else to stderr. Exit 0, 1 for "no", 2 for
bad usage. A command imports what it needs, and nothing of another's.
"""

from __future__ import annotations

import click

from pourtier_grpc.cli.common import fail
from pourtier_grpc.cli.lazy import LazyGroup, lazy
from pourtier_grpc.expected import ExpectedError


class Cli(LazyGroup):
    """The commands; what can be expected to go wrong is a sentence, not a stack."""

    def invoke(self, ctx: click.Context) -> object:
        """Runs the command that was asked for."""
        try:
            return super().invoke(ctx)
        except ExpectedError as error:
            fail(error.sentence)


@click.group(
    cls=Cli,
    context_settings={"help_option_names": ["-h", "--help"]},
    commands=lazy(
        __name__,
        ("api-key", "api_keys:api_key", "API keys of internal services."),
        ("audit", "audit:audit", "The sealed audit log."),
        ("charges", "charges:charges", "Charges of subscriptions."),
        ("dev", "dev:dev", "Run everything on this machine: databases, service, edge."),
        ("events", "events:events", "Events for other services."),
        (
            "grant",
            "grant:grant",
            "Give a role of the database what its duty needs.",
        ),
        ("keys", "keys:keys", "Key material."),
        ("legal", "legal:legal", "Legal texts and receipts."),
        ("migrate", "migrate:migrate", "Bring the database to the newest revision."),
        (
            "passeur-sim",
            "passeur_sim:passeur_sim",
            "Simulate Passeur until SIGTERM or Ctrl-C, with a ledger that lasts.",
        ),
        ("serve", "serve:serve", "Serve gRPC until SIGTERM or Ctrl-C."),
        ("subscription", "subscription:subscription", "Subscriptions."),
        ("user", "users:user", "Accounts."),
        ("wallet", "wallet:wallet", "A wallet for the terminal."),
        ("worker", "worker:worker", "Run the background until SIGTERM or Ctrl-C."),
    ),
)
@click.version_option(package_name="pourtier-grpc")
def main() -> None:
    """Pourtier, the identity service of Lumiere."""
