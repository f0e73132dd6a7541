from __future__ import annotations

import ipaddress

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from reeltune.auth.v1 import user_pb2, user_service_pb2

from auth_svc.domain.errors import InvalidField
from auth_svc.domain.user import Role, UserChange
from auth_svc.rpc.client_address import address_of
from auth_svc.rpc.convert import user_change_from_proto, user_query_from_filter

PROXIES = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("ipv4:192.0.2.7:1234", [], "192.0.2.7"),
        ("ipv4:192.0.2.7:1234", ["203.0.113.1"], "192.0.2.7"),
        ("ipv4:127.0.0.1:1234", ["203.0.113.1, 198.51.100.4"], "198.51.100.4"),
        ("ipv4:127.0.0.1:1234", ["203.0.113.1", "198.51.100.4"], "198.51.100.4"),
        ("ipv6:%5B::1%5D:1234", ["2001:db8::5"], "2001:db8::5"),
        ("ipv6:%5B::ffff:127.0.0.1%5D:1234", ["198.51.100.4"], "198.51.100.4"),
        ("ipv4:127.0.0.1:1234", ["nonsense"], "127.0.0.1"),
        ("unix:/run/auth.sock", ["198.51.100.4"], "unix"),
    ],
)
def test_believes_only_the_last_hop_of_a_trusted_proxy(peer: str, forwarded: list[str], address: str) -> None:
    assert address_of(peer, forwarded, PROXIES) == address


def test_filters_become_patterns() -> None:
    query = user_query_from_filter('username : "a_b%" AND email != "X@y.org" AND disabled != false')
    assert query.username_like == ["%a\\_b\\%%"]
    assert query.email_unlike == ["x@y.org"]
    assert query.disabled == [True]


def request(*paths: str, **fields: object) -> user_service_pb2.UpdateUserRequest:
    return user_service_pb2.UpdateUserRequest(user=user_pb2.User(**fields), update_mask=FieldMask(paths=paths))


def test_only_masked_fields_change() -> None:
    both = {"roles": [user_pb2.ROLE_ADMIN, user_pb2.ROLE_USER], "disabled": True}
    assert user_change_from_proto(request("disabled", **both)) == UserChange(disabled=True)
    assert user_change_from_proto(request("roles", **both)) == UserChange(roles=frozenset(Role))


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (request(), "update_mask"),
        (request("email"), "update_mask"),
        (request("roles"), "user.roles"),
        (request("roles", roles=[0]), "user.roles"),
        (request("roles", roles=[user_pb2.ROLE_USER, 99]), "user.roles"),
    ],
)
def test_refuses_what_cannot_be_changed(bad: user_service_pb2.UpdateUserRequest, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        user_change_from_proto(bad)
    assert caught.value.field == field
