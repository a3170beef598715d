"""Events for other services: relayed, trimmed, and sent again."""
