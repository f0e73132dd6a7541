from __future__ import annotations

import contextlib
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_svc.domain.errors import InvalidField
from auth_svc.domain.password import MAX_LENGTH, PasswordPolicy, normalise_password, read_common_passwords

COMMON = read_common_passwords(resources.files("auth_svc").joinpath("domain/common_passwords.txt").read_text("utf-8"))
POLICY = PasswordPolicy(min_length=15, common=COMMON)


def check(password: str) -> None:
    POLICY.check(normalise_password(password), username="ada.lovelace", email="countess@example.org")


@pytest.mark.parametrize(
    "password",
    [
        "seven green boats sail",
        "Xk9#mQ2$vL7!pR4",
        "пароль из четырёх слов",
        "a password with 🎥 in it",
        "q" * 10 + "wz7!Mab",
        "correct sheep battery staple",
    ],
)
def test_accepts_long_unguessable_passwords(password: str) -> None:
    check(password)
    with pytest.raises(InvalidField, match="15 to 256"):
        check(password[:14])


@pytest.mark.parametrize(
    ("password", "part"),
    [
        ("short but odd!", "15 to 256"),
        ("x" * 300, "15 to 256"),
        ("aaaaaaaaaaaaaaaaaaaa", "different characters"),
        ("abababababababab", "different characters"),
        ("Password12345678", "common"),
        ("P@ssw0rd!!!!!!!!!!", "common"),
        ("correct horse battery staple", "common"),
        ("CorrectHorseBatteryStaple2024!", "common"),
        ("passwordpassword", "common"),
        ("i love you so much 123", "common"),
        ("abcdefabcdefabcdef", "repeats"),
        ("tr0ub4dtr0ub4dtr0ub4d", "repeats"),
        ("abcdefghijklmnop", "alphabet"),
        ("qwertyuiopasdfgh", "keyboard"),
        ("09876543210987654", "keyboard"),
        ("qwertyuiop1234567890", "common"),
        ("asdfghjkllkjhgfdsa", "keyboard"),
        ("xx Ada.Lovelace 77", "username"),
        ("my mail countess@example.org", "e-mail"),
        ("the countess of numbers", "e-mail"),
    ],
)
def test_refuses_guessable_passwords_and_says_why(password: str, part: str) -> None:
    with pytest.raises(InvalidField) as caught:
        check(password)
    assert caught.value.field == "password"
    assert part in caught.value.description
    assert password not in str(caught.value)


def test_the_list_holds_at_least_200_long_passwords() -> None:
    assert len([password for password in COMMON if len(password) >= 12]) >= 200
    assert all(password == password.strip().casefold() for password in COMMON)


def test_the_same_text_from_two_keyboards_is_one_password() -> None:
    assert normalise_password("cafe\u0301 au lait") == normalise_password("caf\u00e9 au lait")


@pytest.mark.parametrize("min_length", [11, 257])
def test_the_floor_of_the_length_cannot_be_set_away(min_length: int) -> None:
    with pytest.raises(ValueError, match="12 to 256"):
        PasswordPolicy(min_length=min_length, common=frozenset())


@given(st.text(max_size=MAX_LENGTH + 10))
def test_what_is_accepted_has_the_right_length_and_the_rest_is_refused_by_name(password: str) -> None:
    with contextlib.suppress(InvalidField):
        check(password)
        assert 15 <= len(normalise_password(password)) <= MAX_LENGTH


@given(st.sampled_from(sorted(COMMON)), st.text(alphabet="0123456789!?.", max_size=6))
def test_no_ending_of_digits_and_marks_saves_a_common_password(common: str, ending: str) -> None:
    with pytest.raises(InvalidField):
        check(common.capitalize() + ending)
