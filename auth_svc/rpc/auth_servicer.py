"""`reeltune.auth.v1.AuthService`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reeltune.auth.v1 import auth_service_pb2 as pb
from reeltune.auth.v1 import auth_service_pb2_grpc

from auth_svc.rpc.caller import calling_account
from auth_svc.rpc.client_address import Context, Network, client_address
from auth_svc.rpc.convert import jwks_to_proto, user_to_proto
from auth_svc.rpc.session_cookie import hand_out, refresh_token_of, take_back
from auth_svc.usecases.key_ring import KeyRing
from auth_svc.usecases.log_in import LogIn
from auth_svc.usecases.log_out import LogOut
from auth_svc.usecases.refresh_session import RefreshSession
from auth_svc.usecases.sign_up import SignUp


@dataclass(frozen=True, slots=True)
class AuthServicer(auth_service_pb2_grpc.AuthServiceServicer):
    """Signs users up and in, and keeps their sessions."""

    sign_up: SignUp
    log_in: LogIn
    refresh_session: RefreshSession
    log_out: LogOut
    keys: KeyRing
    trusted_proxies: Sequence[Network]

    async def SignUp(self, request: pb.SignUpRequest, context: Context) -> pb.SignUpResponse:
        signed_in = await self.sign_up(request.username, request.email, request.password, self._address(context))
        tokens = await hand_out(signed_in.tokens, context)
        return pb.SignUpResponse(user=user_to_proto(signed_in.user), tokens=tokens)

    async def Login(self, request: pb.LoginRequest, context: Context) -> pb.LoginResponse:
        signed_in = await self.log_in(request.username, request.password, self._address(context))
        tokens = await hand_out(signed_in.tokens, context)
        return pb.LoginResponse(user=user_to_proto(signed_in.user), tokens=tokens)

    async def RefreshSession(self, request: pb.RefreshSessionRequest, context: Context) -> pb.RefreshSessionResponse:
        tokens = await self.refresh_session(refresh_token_of(request, context), self._address(context))
        return pb.RefreshSessionResponse(tokens=await hand_out(tokens, context))

    async def Logout(self, request: pb.LogoutRequest, context: Context) -> pb.LogoutResponse:
        account = calling_account()
        await self.log_out(account.session_id, account.user_id, self._address(context))
        await take_back(context)
        return pb.LogoutResponse()

    async def GetJwks(self, request: pb.GetJwksRequest, context: Context) -> pb.GetJwksResponse:
        return jwks_to_proto(self.keys.public_keys())

    def _address(self, context: Context) -> str:
        return client_address(context, self.trusted_proxies)
