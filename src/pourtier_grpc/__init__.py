"""Pourtier: the identity service of Lumiere, over gRPC."""

from __future__ import annotations

import os
import sys

# grpcio has no setting for the lowest TLS version, and its list of ciphers, which it
# reads from the environment when it is imported, is that of TLS 1.2 alone. This one
# needs a key that both sides know beforehand, which nobody has: TLS 1.2 finds no cipher
# in common, and 1.3 is what is left (docs/decisions/0009).
CIPHERS_VARIABLE = "GRPC_SSL_CIPHER_SUITES"
TLS_1_3_ALONE = "PSK-AES128-CBC-SHA"
BEFORE_GRPC = "grpc" not in sys.modules

# Whoever has set it lets TLS 1.2 in, which the start then says.
os.environ.setdefault(CIPHERS_VARIABLE, TLS_1_3_ALONE)
