"""UserService."""

from __future__ import annotations

from pourtier.v1 import user_service_pb2 as pb
from pourtier.v1.user_pb2 import User
from pourtier_grpc.call import Call
from pourtier_grpc.users.profile import Profiles


class UserServicer:
    """People's accounts."""

    def __init__(self, *, profiles: Profiles) -> None:
        self._profiles = profiles

    def GetMe(self, request: pb.GetMeRequest, call: Call) -> User:
        return self._profiles.get(call.signed_in)

    def UpdateMe(self, request: pb.UpdateMeRequest, call: Call) -> User:
        # A mask without a path is no mask (AIP-134).
        mask = list(request.update_mask.paths) or None
        return self._profiles.update(call.signed_in, request.user, mask, call.client)
