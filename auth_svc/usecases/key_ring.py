"""The live signing keys: what signs access tokens and what verifies them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import structlog
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from auth_svc.domain.signing_key import SigningKey, choose_signer
from auth_svc.store.key_folder import KeyFolder, KeyFolderError
from meshkit.auth.keys import StaticKeys
from meshkit.auth.token_kinds import USER_TOKEN
from meshkit.auth.tokens import TokenSigner, public_jwk, public_pem

_RELOAD_SECONDS = 15


class KeyRing:
    """Holds the keys of a folder and follows its changes; a key source for `meshkit.auth`."""

    def __init__(
        self, folder: KeyFolder, activation: timedelta, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._folder = folder
        self._activation = activation
        self._now = now
        self._hold(folder.ensure_keys())

    def signer(self) -> TokenSigner:
        """Returns the signer of access tokens."""
        key = choose_signer(self._keys, self._now(), self._activation)
        return self._signers[key.kid]

    def public_keys(self) -> list[Mapping[str, str]]:
        """Returns the public keys as JSON Web Keys, the one that signs first."""
        signing = choose_signer(self._keys, self._now(), self._activation)
        ordered = [signing, *(key for key in self._keys if key.kid != signing.kid)]
        return [public_jwk(key.private_pem, key.kid) for key in ordered]

    async def find(self, kid: str) -> EllipticCurvePublicKey | None:
        """Finds the public key that verifies tokens with this `kid`."""
        return await self._verifying.find(kid)

    def reload(self) -> None:
        """Reads the folder again; keys that cannot be read leave those that are there."""
        try:
            keys = self._folder.load_keys()
        except (KeyFolderError, OSError) as error:
            structlog.get_logger().error("signing_keys.unreadable", cause=str(error))
            return
        if keys and [key.kid for key in keys] != [key.kid for key in self._keys]:
            self._hold(keys)
            structlog.get_logger().info("signing_keys.changed", kids=[key.kid for key in keys])

    async def follow(self) -> None:
        """Reloads the folder every few seconds, for ever."""
        while True:
            await asyncio.sleep(_RELOAD_SECONDS)
            await asyncio.to_thread(self.reload)

    def _hold(self, keys: list[SigningKey]) -> None:
        self._signers = {key.kid: USER_TOKEN.signer(key.private_pem, key.kid) for key in keys}
        self._verifying = StaticKeys({key.kid: public_pem(key.private_pem) for key in keys})
        # Last: `signer` reads this first, from another thread's point of view.
        self._keys = keys
