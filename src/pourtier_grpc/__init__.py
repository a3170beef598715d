"""Pourtier: the identity service of Lumiere, over gRPC."""
