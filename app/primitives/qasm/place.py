"""Where in the source is something wrong? Makes the one error of this package, with its place."""

from __future__ import annotations

from dataclasses import dataclass

from app.errors import InvalidProgram

#: Characters of a source line that are shown to each side of the fault.
SHOWN_CHARS = 60
#: Longest text that a parser's own message may have.
MESSAGE_CHARS = 300


@dataclass(frozen=True)
class Place:
    """A place in a source; both 1-based."""

    line: int
    column: int

    @classmethod
    def of(cls, span: object) -> Place | None:
        """Where a syntax node begins; the parser counts columns from 0."""
        line = getattr(span, "start_line", None)
        return None if line is None else cls(line, getattr(span, "start_column", 0) + 1)


class Rejected(Exception):
    """The program is refused, before its source line is looked up."""

    def __init__(self, reason: str, message: str, place: Place | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.place = place

    @classmethod
    def at(cls, node: object, reason: str, message: str) -> Rejected:
        """A refusal because of one node of the syntax tree."""
        return cls(reason, message, Place.of(getattr(node, "span", None)))


def invalid(source: str, rejected: Rejected) -> InvalidProgram:
    """The error a caller sees: with the source line, cut around the place."""
    place = rejected.place
    if place is None:
        return InvalidProgram(rejected.reason, rejected.message)
    lines = source.splitlines()
    text = lines[place.line - 1] if 0 < place.line <= len(lines) else ""
    first = max(place.column - 1 - SHOWN_CHARS, 0)
    shown = text[first : place.column - 1 + SHOWN_CHARS].replace("\t", " ")
    return InvalidProgram(
        rejected.reason,
        rejected.message,
        line=place.line,
        column=place.column,
        source_line=shown,
        caret=place.column - first,
    )
