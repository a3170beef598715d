"""Passeur, the bridge to the escrow program: what it is asked, and what it answers."""
