"""`reeltune.auth.v1.UserService`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from reeltune.auth.v1 import user_service_pb2 as pb
from reeltune.auth.v1 import user_service_pb2_grpc

from auth_svc.domain.user import UserId
from auth_svc.rpc.caller import calling_account
from auth_svc.rpc.client_address import Context, Network, client_address
from auth_svc.rpc.convert import user_change_from_proto, user_query_from_filter, user_to_proto
from auth_svc.store.session_store import SessionStore
from auth_svc.usecases.manage_users import ManageUsers
from meshkit.rpc.paging import PageTokens, Position, page_size

_MAX_PAGE_SIZE = 1000


@dataclass(frozen=True, slots=True)
class UserServicer(user_service_pb2_grpc.UserServiceServicer):
    """Reads and changes users."""

    sessions: SessionStore
    manage_users: ManageUsers
    page_tokens: PageTokens
    trusted_proxies: Sequence[Network]

    async def GetMe(self, request: pb.GetMeRequest, context: Context) -> pb.GetMeResponse:
        account = calling_account()
        user = await self.sessions.get_live_user(account.session_id, account.user_id)
        return pb.GetMeResponse(user=user_to_proto(user))

    async def ListUsers(self, request: pb.ListUsersRequest, context: Context) -> pb.ListUsersResponse:
        account = calling_account()
        query = user_query_from_filter(request.filter)
        position = self.page_tokens.decode(request.page_token, caller=account.user_id, filter=request.filter)
        size = page_size(request.page_size, maximum=_MAX_PAGE_SIZE)
        # One more than asked for tells whether there is a next page.
        users = await self.manage_users.list_page(account, query, _after(position), size + 1)
        response = pb.ListUsersResponse(users=[user_to_proto(user) for user in users[:size]])
        if len(users) > size:
            last = users[size - 1]
            response.next_page_token = self.page_tokens.encode(
                (last.create_time.isoformat(), last.id), caller=account.user_id, filter=request.filter
            )
        return response

    async def UpdateUser(self, request: pb.UpdateUserRequest, context: Context) -> pb.UpdateUserResponse:
        user = await self.manage_users.update(
            calling_account(),
            UserId(request.user.id),
            user_change_from_proto(request),
            request.user.etag,
            client_address(context, self.trusted_proxies),
        )
        return pb.UpdateUserResponse(user=user_to_proto(user))


def _after(position: Position | None) -> tuple[datetime, str] | None:
    if position is None:
        return None
    create_time, user_id = position
    return datetime.fromisoformat(str(create_time)), str(user_id)
