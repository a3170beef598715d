"""`buf.validate`, for the stubs that import it.

protovalidate's wheel carries the descriptor but no stub of it for google.protobuf, so it
is registered from there; the stubs that import this module only need it to be known.
"""

from google.protobuf import descriptor_pool
from google.protobuf import descriptor_pb2 as _descriptor  # noqa: F401 - imported by it
from google.protobuf import duration_pb2 as _duration  # noqa: F401 - imported by it
from google.protobuf import field_mask_pb2 as _field_mask  # noqa: F401 - imported by it
from google.protobuf import timestamp_pb2 as _timestamp  # noqa: F401 - imported by it
from protovalidate._gen.buf.validate import validate_pb

DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(
    validate_pb.desc().proto.to_binary()
)
