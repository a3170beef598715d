"""UserService."""

from __future__ import annotations

from uuid import UUID

from pourtier.v1 import user_service_pb2 as pb
from pourtier.v1.user_pb2 import User
from pourtier_grpc.call import Call
from pourtier_grpc.users.admin import Administration
from pourtier_grpc.users.directory import Directory
from pourtier_grpc.users.profile import Profiles


class UserServicer:
    """People's accounts."""

    def __init__(
        self,
        *,
        profiles: Profiles,
        directory: Directory,
        administration: Administration,
    ) -> None:
        self._profiles = profiles
        self._directory = directory
        self._administration = administration

    def GetMe(self, request: pb.GetMeRequest, call: Call) -> User:
        return self._profiles.get(call.signed_in)

    def UpdateMe(self, request: pb.UpdateMeRequest, call: Call) -> User:
        # A mask without a path is no mask (AIP-134).
        mask = list(request.update_mask.paths) or None
        return self._profiles.update(call.signed_in, request.user, mask, call.client)

    def GetUser(self, request: pb.GetUserRequest, call: Call) -> User:
        return self._directory.get(UUID(request.user_id))

    def GetUserByWallet(self, request: pb.GetUserByWalletRequest, call: Call) -> User:
        return self._directory.get_by_wallet(request.chain, request.wallet_address)

    def BatchGetUsers(
        self, request: pb.BatchGetUsersRequest, call: Call
    ) -> pb.BatchGetUsersResponse:
        return self._directory.get_many(request.user_ids)

    def ListUsers(
        self, request: pb.ListUsersRequest, call: Call
    ) -> pb.ListUsersResponse:
        return self._directory.page(request)

    def SuspendUser(
        self, request: pb.SuspendUserRequest, call: Call
    ) -> pb.SuspendUserResponse:
        user_id = UUID(request.user_id)
        user = self._administration.suspend(user_id, call.act(request.reason))
        return pb.SuspendUserResponse(user=user)

    def ReinstateUser(
        self, request: pb.ReinstateUserRequest, call: Call
    ) -> pb.ReinstateUserResponse:
        user_id = UUID(request.user_id)
        user = self._administration.reinstate(user_id, call.act(request.reason))
        return pb.ReinstateUserResponse(user=user)

    def SetKycLevel(self, request: pb.SetKycLevelRequest, call: Call) -> User:
        return self._administration.set_kyc_level(
            UUID(request.user_id), request.kyc_level, call.act(request.reason)
        )
