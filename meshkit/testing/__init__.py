"""For tests: real servers for the session, a fresh database for each test, and real channels with all interceptors.

The fixtures are in `meshkit.testing.plugin`.
"""

from meshkit.testing.databases import Database, DatabaseSpec
from meshkit.testing.eventually import assert_eventually
from meshkit.testing.served import Served, TokenMint

__all__ = ["Database", "DatabaseSpec", "Served", "TokenMint", "assert_eventually"]
