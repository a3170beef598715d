"""A simulator of Passeur: its whole contract over HTTP, on a ledger that lasts."""
