"""What can be expected to go wrong: a sentence for the operator, not a stack.

Whoever raises such an error derives it from this one, so that the command needs no list
of them, and imports none of the modules that raise them.
"""

from __future__ import annotations


class ExpectedError(Exception):
    """Nothing is broken in the service; its text says what is wrong, and where."""

    @property
    def sentence(self) -> str:
        """What the operator is told at a terminal."""
        return str(self)
