"""Who calls: wallet proofs, nonces, tokens and sessions."""
