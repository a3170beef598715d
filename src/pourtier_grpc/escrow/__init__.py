"""Escrows: what they hold, and what is moved in and out of them."""
