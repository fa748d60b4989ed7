import pytest

from shared_data.errors import InputError, listed, printable


def test_listed_shows_twenty_and_counts_the_rest() -> None:
    text = listed([f"row {n}" for n in range(23)])
    assert text.splitlines()[0].strip() == "row 0"
    assert text.splitlines()[19].strip() == "row 19"
    assert text.splitlines()[20:] == ["  and 3 more"]


def test_listed_says_nothing_more_at_the_limit() -> None:
    assert len(listed(["row"] * 20).splitlines()) == 20


@pytest.mark.parametrize("hostile", ["\x1b[31mred", "two\nlines", "\udc80", "\u202egnp"])
def test_printable_leaves_nothing_a_terminal_obeys(hostile: str) -> None:
    safe = printable(hostile)
    assert safe.isprintable()
    safe.encode("utf-8")


def test_printable_keeps_letters_of_all_languages() -> None:
    assert printable("Gesichter für 顔") == "Gesichter für 顔"


def test_input_error_is_no_value_error() -> None:
    # command lines catch InputError alone; a ValueError is a bug and keeps its traceback
    assert InputError.__mro__[1] is Exception
