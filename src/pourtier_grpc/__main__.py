"""`python -m pourtier_grpc`: the command `pourtier`."""

from pourtier_grpc.cli import main

main(prog_name="pourtier")
