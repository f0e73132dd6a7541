"""Builds the service: opens what it needs, in order, and wires it up."""

from __future__ import annotations

from datetime import timedelta
from importlib import resources

from reeltune.auth.v1.auth_service_pb2_grpc import add_AuthServiceServicer_to_server
from reeltune.auth.v1.revocation_service_pb2_grpc import add_RevocationServiceServicer_to_server
from reeltune.auth.v1.user_service_pb2_grpc import add_UserServiceServicer_to_server

from auth_svc import metrics
from auth_svc.domain.password import PasswordPolicy, read_common_passwords
from auth_svc.domain.session import SessionLimits
from auth_svc.domain.throttle import ThrottlePolicy
from auth_svc.rpc.auth_servicer import AuthServicer
from auth_svc.rpc.error_table import ERROR_TABLE
from auth_svc.rpc.peers import PEERS
from auth_svc.rpc.revocation_servicer import RevocationServicer
from auth_svc.rpc.user_servicer import UserServicer
from auth_svc.settings import AuthSettings
from auth_svc.store.key_folder import KeyFolder
from auth_svc.store.login_failure_store import LoginFailureStore
from auth_svc.store.queries import MIGRATIONS, SCHEMA
from auth_svc.store.session_store import SessionStore
from auth_svc.store.user_store import UserStore
from auth_svc.usecases.address_limiter import AddressLimiter
from auth_svc.usecases.issue_tokens import IssueTokens
from auth_svc.usecases.key_ring import KeyRing
from auth_svc.usecases.list_revocations import ListRevocations
from auth_svc.usecases.log_in import LogIn
from auth_svc.usecases.log_out import LogOut
from auth_svc.usecases.manage_users import ManageUsers
from auth_svc.usecases.open_session import OpenSession
from auth_svc.usecases.password_hasher import Argon2Parameters, PasswordHasher
from auth_svc.usecases.refresh_session import RefreshSession
from auth_svc.usecases.sign_up import SignUp
from auth_svc.usecases.sweep import sweep_for_ever
from meshkit.auth.token_kinds import USER_TOKEN
from meshkit.auth.tokens import TokenVerifier
from meshkit.lifecycle import Runtime, Service
from meshkit.postgres import Pool, migrate, open_pool
from meshkit.postgres.failures import POSTGRES_FAILURES
from meshkit.postgres.pool_gauges import show_pool
from meshkit.rpc.paging import PageTokens
from meshkit.rpc.registration import ServicerRegistration


async def bootstrap(settings: AuthSettings, runtime: Runtime) -> Service:
    """Opens the database and the keys, and returns the service."""
    pool = await _open_database(settings, runtime)
    folder = KeyFolder(settings.keys_dir)
    keys = KeyRing(folder, timedelta(seconds=settings.key_activation_seconds))
    runtime.background.start("follow signing keys", keys.follow())
    hasher = _hasher(settings)
    runtime.stack.callback(hasher.close)
    runtime.metrics.register(metrics.REGISTRY)
    metrics.show_password_queue(runtime.metrics, lambda: hasher.pending, hasher.limit)
    users = UserStore(pool)
    sessions = SessionStore(pool, _session_limits(settings))
    failures = LoginFailureStore(pool, _throttle_policy(settings))
    runtime.background.start("sweep", sweep_for_ever(sessions, failures))
    issue_tokens = IssueTokens(keys, folder.refresh_key(), timedelta(seconds=settings.access_token_seconds))
    open_session = OpenSession(sessions, issue_tokens)
    addresses = AddressLimiter(settings.address_failures, settings.address_failures_per_second)
    auth = AuthServicer(
        sign_up=SignUp(users, hasher, _password_policy(settings), open_session),
        log_in=LogIn(users, failures, addresses, hasher, open_session),
        refresh_session=RefreshSession(sessions, issue_tokens),
        log_out=LogOut(sessions),
        keys=keys,
        trusted_proxies=settings.trusted_proxies,
    )
    revocations = ListRevocations(sessions, issue_tokens.access_ttl)
    page_tokens = PageTokens(settings.page_token_secret.get_secret_value().encode())
    user = UserServicer(sessions, ManageUsers(users, sessions), page_tokens, settings.trusted_proxies)
    return Service(
        registrations=[
            ServicerRegistration(add_AuthServiceServicer_to_server, auth),
            ServicerRegistration(add_UserServiceServicer_to_server, user),
            ServicerRegistration(add_RevocationServiceServicer_to_server, RevocationServicer(revocations)),
        ],
        error_table={**POSTGRES_FAILURES, **ERROR_TABLE},
        verifier=TokenVerifier([USER_TOKEN.trusted(keys)]),
        peers=PEERS,
    )


async def _open_database(settings: AuthSettings, runtime: Runtime) -> Pool:
    dsn = settings.postgres_dsn.get_secret_value()
    await migrate(dsn, SCHEMA, MIGRATIONS)
    pool = await open_pool(dsn, SCHEMA, max_size=settings.postgres_pool_size)
    runtime.stack.push_async_callback(pool.close)
    show_pool(pool, runtime.metrics)
    return pool


def _hasher(settings: AuthSettings) -> PasswordHasher:
    parameters = Argon2Parameters(
        memory_kib=settings.argon2_memory_kib,
        time_cost=settings.argon2_time_cost,
        parallelism=settings.argon2_parallelism,
    )
    return PasswordHasher(parameters, threads=settings.password_threads, max_waiting=settings.password_max_waiting)


def _password_policy(settings: AuthSettings) -> PasswordPolicy:
    text = resources.files("auth_svc").joinpath("domain/common_passwords.txt").read_text("utf-8")
    return PasswordPolicy(settings.password_min_length, read_common_passwords(text))


def _session_limits(settings: AuthSettings) -> SessionLimits:
    return SessionLimits(
        refresh_ttl=timedelta(days=settings.refresh_token_days),
        session_ttl=timedelta(days=settings.session_days),
        replay_window=timedelta(seconds=settings.refresh_replay_seconds),
    )


def _throttle_policy(settings: AuthSettings) -> ThrottlePolicy:
    return ThrottlePolicy(
        free_failures=settings.login_free_failures,
        first_delay=timedelta(seconds=settings.login_first_delay_seconds),
        max_delay=timedelta(seconds=settings.login_max_delay_seconds),
        forget_after=timedelta(seconds=settings.login_forget_seconds),
    )
