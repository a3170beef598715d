"""AuthService."""

from __future__ import annotations

from uuid import UUID

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1.json_web_key_pb2 import JsonWebKey
from pourtier_grpc.auth.keyring import Keyring, public_jwk
from pourtier_grpc.auth.own_sessions import OwnSessions
from pourtier_grpc.auth.proof import Proof
from pourtier_grpc.auth.refresh import Refresh
from pourtier_grpc.auth.sessions import Sessions
from pourtier_grpc.auth.sign_in import Profile, SignIn
from pourtier_grpc.call import Call

ProofRequest = pb.VerifyWalletRequest | pb.RegisterRequest | pb.LoginRequest


class AuthServicer:
    """Signing in by wallet, and the tokens that follow from it."""

    def __init__(
        self,
        *,
        sign_in: SignIn,
        refresh: Refresh,
        sessions: Sessions,
        own_sessions: OwnSessions,
        keyring: Keyring,
    ) -> None:
        self._sign_in = sign_in
        self._refresh = refresh
        self._sessions = sessions
        self._own_sessions = own_sessions
        self._keyring = keyring

    def CreateChallenge(
        self, request: pb.CreateChallengeRequest, call: Call
    ) -> pb.CreateChallengeResponse:
        return self._sign_in.challenge(
            chain=request.chain,
            address=request.wallet_address,
            domain=request.domain,
            client=call.client,
        )

    def VerifyWallet(
        self, request: pb.VerifyWalletRequest, call: Call
    ) -> pb.VerifyWalletResponse:
        address, registered = self._sign_in.verify(_proof(request), call.client)
        return pb.VerifyWalletResponse(wallet_address=address, registered=registered)

    def Register(self, request: pb.RegisterRequest, call: Call) -> pb.RegisterResponse:
        profile = Profile(
            wallet_type=request.wallet_type,
            display_name=request.display_name,
            email=request.email,
            locale=request.locale,
            accepted_document_ids=tuple(map(UUID, request.accepted_document_ids)),
        )
        user, tokens = self._sign_in.register(_proof(request), profile, call.client)
        call.account = user
        return pb.RegisterResponse(user=user, tokens=tokens)

    def Login(self, request: pb.LoginRequest, call: Call) -> pb.LoginResponse:
        user, tokens = self._sign_in.login(_proof(request), call.client)
        call.account = user
        return pb.LoginResponse(user=user, tokens=tokens)

    def RefreshToken(
        self, request: pb.RefreshTokenRequest, call: Call
    ) -> pb.RefreshTokenResponse:
        tokens = self._refresh.refresh(request.refresh_token, call.client)
        return pb.RefreshTokenResponse(tokens=tokens)

    def ListSessions(
        self, request: pb.ListSessionsRequest, call: Call
    ) -> pb.ListSessionsResponse:
        return self._own_sessions.page(
            call.signed_in, request.page_size, request.page_token
        )

    def RevokeSession(
        self, request: pb.RevokeSessionRequest, call: Call
    ) -> pb.RevokeSessionResponse:
        session_id = UUID(request.session_id)
        self._own_sessions.revoke(call.signed_in, session_id, call.client)
        return pb.RevokeSessionResponse()

    def RevokeAllSessions(
        self, request: pb.RevokeAllSessionsRequest, call: Call
    ) -> pb.RevokeAllSessionsResponse:
        count = self._own_sessions.revoke_all(
            call.signed_in, call.client, keep_current=request.keep_current
        )
        return pb.RevokeAllSessionsResponse(revoked_count=count)

    def IntrospectToken(
        self, request: pb.IntrospectTokenRequest, call: Call
    ) -> pb.IntrospectTokenResponse:
        return self._sessions.introspect(request.token)

    def Logout(self, request: pb.LogoutRequest, call: Call) -> pb.LogoutResponse:
        self._refresh.logout(request.refresh_token, call.bearer, call.client)
        return pb.LogoutResponse()

    def GetJwks(self, request: pb.GetJwksRequest, call: Call) -> pb.GetJwksResponse:
        # The one answer that caches may keep: keys are published long ahead.
        call.headers.append(("cache-control", "public, max-age=300"))
        published = map(public_jwk, self._keyring.published)
        return pb.GetJwksResponse(keys=[JsonWebKey(**jwk) for jwk in published if jwk])


def _proof(request: ProofRequest) -> Proof:
    text = request.WhichOneof("signed") == "message"
    return Proof(
        wallet_address=request.wallet_address,
        signature=request.signature,
        encoding=request.signature_encoding,
        signed=request.message.encode() if text else request.signed_message,
    )
