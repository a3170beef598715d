"""AuthService."""

from __future__ import annotations

from pourtier.v1 import auth_service_pb2 as pb
from pourtier_grpc.auth.keyring import Keyring, public_jwk
from pourtier_grpc.auth.proof import Proof
from pourtier_grpc.auth.sessions import Sessions
from pourtier_grpc.auth.sign_in import Profile, SignIn
from pourtier_grpc.call import Call

ProofRequest = pb.VerifyWalletRequest | pb.RegisterRequest | pb.LoginRequest


class AuthServicer:
    """Signing in by wallet, and the tokens that follow from it."""

    def __init__(
        self, *, sign_in: SignIn, sessions: Sessions, keyring: Keyring
    ) -> None:
        self._sign_in = sign_in
        self._sessions = sessions
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
        address, registered = self._sign_in.verify(_proof(request))
        return pb.VerifyWalletResponse(wallet_address=address, registered=registered)

    def Register(self, request: pb.RegisterRequest, call: Call) -> pb.RegisterResponse:
        profile = Profile(
            wallet_type=request.wallet_type,
            display_name=request.display_name,
            email=request.email,
            locale=request.locale,
        )
        user, tokens = self._sign_in.register(_proof(request), profile, call.client)
        return pb.RegisterResponse(user=user, tokens=tokens)

    def Login(self, request: pb.LoginRequest, call: Call) -> pb.LoginResponse:
        user, tokens = self._sign_in.login(_proof(request), call.client)
        return pb.LoginResponse(user=user, tokens=tokens)

    def RefreshToken(
        self, request: pb.RefreshTokenRequest, call: Call
    ) -> pb.RefreshTokenResponse:
        tokens = self._sessions.refresh(request.refresh_token, call.client)
        return pb.RefreshTokenResponse(tokens=tokens)

    def Logout(self, request: pb.LogoutRequest, call: Call) -> pb.LogoutResponse:
        self._sessions.logout(request.refresh_token, call.bearer, call.client)
        return pb.LogoutResponse()

    def GetJwks(self, request: pb.GetJwksRequest, call: Call) -> pb.GetJwksResponse:
        # The one answer that caches may keep: keys are published long ahead.
        call.headers.append(("cache-control", "public, max-age=300"))
        published = map(public_jwk, self._keyring.access_keys.values())
        return pb.GetJwksResponse(
            keys=[pb.JsonWebKey(**jwk) for jwk in published if jwk]
        )


def _proof(request: ProofRequest) -> Proof:
    text = request.WhichOneof("signed") == "message"
    return Proof(
        wallet_address=request.wallet_address,
        signature=request.signature,
        encoding=request.signature_encoding,
        signed=request.message.encode() if text else request.signed_message,
    )
