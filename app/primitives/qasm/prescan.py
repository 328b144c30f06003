"""Is the text small and plain enough to be parsed at all? Linear, without a parser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from app.primitives.qasm.place import Place, Rejected

if TYPE_CHECKING:
    from app.config import ProgramLimits

#: Possessive throughout: the scan never goes back.
_TOKEN = re.compile(
    r"""
    //[^\n]*+
    | /\*(?:[^*]|\*(?!/))*+(?:\*/)?
    | "[^"\n]*+"?
    | [A-Za-z_\u0080-\U0010ffff$][A-Za-z0-9_\u0080-\U0010ffff$]*+
    | [0-9][0-9A-Za-z_.]*+
    | \s++
    | .
    """,
    re.VERBOSE | re.DOTALL,
)
_OPERATORS = frozenset("+-*/%<>=!~&|^@")
_STRING_CHARS = 4096
#: What an ``else`` weighs among the operators of a statement: chains of them nest in the parser.
_ELSE_OPERATORS = 4


def prescan(source: str, limits: ProgramLimits) -> str:
    """The source without its byte order mark.

    Raises:
        Rejected: too large, too deep, too long, or with characters that OpenQASM has not.
    """
    size = len(_encoded(source))
    if size > limits.source_bytes:
        raise Rejected("too_large", f"{size} bytes of source; {limits.source_bytes} are allowed")
    source = source.removeprefix("\ufeff")
    scan = _Scan(limits)
    for match in _TOKEN.finditer(source):
        scan.token(match[0], match.start())
    return source


def _encoded(source: str) -> bytes:
    try:
        return source.encode()
    except UnicodeEncodeError as exc:
        message = f"the source is not valid Unicode: a lone surrogate at character {exc.start + 1}"
        raise Rejected("encoding", message) from exc


class _Scan:
    """What has been counted so far."""

    def __init__(self, limits: ProgramLimits) -> None:
        self._limits = limits
        self._tokens = 0
        self._statements = 0
        self._depth = 0
        self._operators = 0
        self._line = 1
        self._line_start = 0
        self._start = 0

    def token(self, text: str, start: int) -> None:
        """Count one token."""
        self._start = start
        first = text[0]
        self._tokens += not first.isspace()
        if self._tokens > self._limits.tokens:
            self._reject("too_many_tokens", f"more than the {self._limits.tokens} tokens allowed")
        if first.isspace():
            self._whitespace(text)
        elif text.startswith(("//", "/*")):
            self._comment(text)
        elif first.isalpha() or first in "_$" or ord(first) > 127:
            self._identifier(text)
        elif first.isdigit():
            self._number(text)
        elif first == '"':
            self._string(text)
        else:
            self._punctuation(first)
        newlines = text.count("\n")
        if newlines:
            self._line += newlines
            self._line_start = start + text.rfind("\n") + 1

    def _whitespace(self, text: str) -> None:
        for char in text:
            if char not in " \t\r\n":
                self._reject("bad_character", f"unexpected character U+{ord(char):04X}")

    def _comment(self, text: str) -> None:
        if text.startswith("/*") and (len(text) < len("/**/") or not text.endswith("*/")):
            self._reject("syntax", "a comment that is opened with /* is not closed")

    def _identifier(self, text: str) -> None:
        most = self._limits.identifier_chars
        if len(text) > most:
            self._reject(
                "identifier_too_long",
                f"an identifier of {len(text)} characters; {most} are allowed",
            )
        if text == "else":
            self._operator(_ELSE_OPERATORS)

    def _number(self, text: str) -> None:
        most = self._limits.number_chars
        if len(text) > most:
            self._reject(
                "number_too_long", f"a number of {len(text)} characters; {most} are allowed"
            )

    def _string(self, text: str) -> None:
        if len(text) < len('""') or not text.endswith('"'):
            self._reject("syntax", "a string is not closed")
        if len(text) > _STRING_CHARS:
            self._reject(
                "string_too_long",
                f"a string of {len(text)} characters; {_STRING_CHARS} are allowed",
            )

    def _punctuation(self, char: str) -> None:
        if char in "([{":
            self._depth += 1
            if self._depth > self._limits.bracket_depth:
                message = (
                    f"brackets nest deeper than the {self._limits.bracket_depth} levels allowed"
                )
                self._reject("too_deep", message)
        elif char in ")]}":
            self._depth = max(0, self._depth - 1)
        elif char in _OPERATORS:
            self._operator(1)
        elif ord(char) < 32 or char in "`\x7f":
            self._reject("bad_character", f"unexpected character U+{ord(char):04X}")
        if char in ";{}":
            self._operators = 0
        if char == ";":
            self._statements += 1
            if self._statements > self._limits.statements:
                message = f"more than the {self._limits.statements} statements allowed"
                self._reject("too_many_statements", message)

    def _operator(self, weight: int) -> None:
        self._operators += weight
        if self._operators > self._limits.statement_operators:
            most = self._limits.statement_operators
            message = f"more than the {most} operators allowed in one statement"
            self._reject("too_complex", message)

    def _reject(self, reason: str, message: str) -> None:
        raise Rejected(reason, message, Place(self._line, self._start - self._line_start + 1))
