"""The one exception that means "what you asked for, or the data you gave, is wrong"."""

from collections.abc import Sequence


class InputError(Exception):
    """The request or the data is wrong; the message is written for people.

    It says what is wrong, where, what was found, what was expected and what to do. Command
    lines print it without a traceback and exit with status 2. Whatever names stand in it, no
    terminal obeys it: all but its line breaks is made `printable`.
    """

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(printable(line) for line in message.split("\n")))


class Unavailable(InputError):
    """Nothing is wrong with the request, but this machine has not what it takes: no GPU, say."""


def listed(lines: Sequence[str], limit: int = 20) -> str:
    """Join `lines` one per row, indented; after `limit` rows say how many more there are."""
    rows = [f"  {line}" for line in lines[:limit]]
    if len(lines) > limit:
        rows.append(f"  and {len(lines) - limit} more")
    return "\n".join(rows)


def printable(text: str) -> str:
    """Return `text` with control characters and undecodable bytes escaped, safe on a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
