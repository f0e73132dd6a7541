"""Which passwords are accepted: long ones that are not easy to guess (after NIST SP 800-63B, section 3.1.1)."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from auth_svc.domain.errors import InvalidField

LENGTH_FLOOR = 12
"""No setting goes below this."""
MAX_LENGTH = 256
_MIN_DISTINCT = 5
_MIN_NAME_LENGTH = 4
_RUNS = (
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890123456789",
    "qwertyuiopasdfghjklzxcvbnm",
    "qwertzuiopasdfghjklyxcvbnm",
    "azertyuiopqsdfghjklmwxcvbn",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik",
)
# Substitutions that every guessing tool tries first.
_LEET = str.maketrans("@4301!$57", "aaeoiisst")
_ENDING = re.compile(r"[\d\W_]+$")
_SEPARATORS = re.compile(r"[\s._-]+")


def normalise_password(password: str) -> str:
    """Returns the form that is hashed: NFKC, so that the same keys typed on another system give the same password."""
    return unicodedata.normalize("NFKC", password)


@dataclass(frozen=True, slots=True)
class PasswordPolicy:
    """The rules for a new password."""

    min_length: int
    """In characters; at least `LENGTH_FLOOR`."""
    common: frozenset[str]
    """Passwords that are guessed first, in lower case."""

    def __post_init__(self) -> None:
        if not LENGTH_FLOOR <= self.min_length <= MAX_LENGTH:
            raise ValueError(f"the shortest password must have {LENGTH_FLOOR} to {MAX_LENGTH} characters")

    def check(self, password: str, *, username: str, email: str) -> None:
        """Accepts a password, in the form that is hashed.

        Raises:
            InvalidField: it is too short, too long, common, or made of the user's own name; says which.
        """
        if not self.min_length <= len(password) <= MAX_LENGTH:
            raise _refused(f"must have {self.min_length} to {MAX_LENGTH} characters")
        folded = password.casefold()
        if len(set(folded)) < _MIN_DISTINCT:
            raise _refused(f"must have at least {_MIN_DISTINCT} different characters")
        if self._is_common(folded):
            raise _refused("is on the list of common passwords; use several unrelated words")
        if _is_patterned(folded):
            raise _refused("repeats itself or follows the keyboard or the alphabet; use several unrelated words")
        for name in (username, email, email.partition("@")[0]):
            if len(name) >= _MIN_NAME_LENGTH and name.casefold() in folded:
                raise _refused("must not contain the username or the e-mail address")

    def _is_common(self, folded: str) -> bool:
        for text in (folded, _ENDING.sub("", folded)):
            joined = _SEPARATORS.sub("", text)
            if not self.common.isdisjoint((text, text.translate(_LEET), joined, joined.translate(_LEET))):
                return True
        return False


def read_common_passwords(text: str) -> frozenset[str]:
    """Returns the entries of a list, one a line, without blank lines and `#` comments."""
    lines = (line.strip() for line in text.splitlines())
    return frozenset(line.casefold() for line in lines if line and not line.startswith("#"))


def _refused(description: str) -> InvalidField:
    return InvalidField("password", description)


def _is_patterned(folded: str) -> bool:
    """True when a short unit is repeated, or the whole is cut from one or two runs of neighbouring keys."""
    for unit in range(1, 9):
        if len(folded) >= 2 * unit and folded == (folded[:unit] * (len(folded) // unit + 1))[: len(folded)]:
            return True
    return _pieces_of_runs(folded) <= 2


def _pieces_of_runs(folded: str) -> int:
    """Counts the fewest pieces, each cut from a run forwards or backwards, that make up the text (greedily)."""
    runs = [run for forward in _RUNS for run in (forward, forward[::-1])]
    pieces, start = 0, 0
    while start < len(folded):
        end = start + 1
        while end < len(folded) and any(folded[start : end + 1] in run for run in runs):
            end += 1
        pieces, start = pieces + 1, end
    return pieces
