"""What does the text say? The reference parser of OpenQASM 3, with places that are true."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn

from antlr4 import CommonTokenStream, InputStream
from antlr4.error.ErrorListener import ErrorListener
from openqasm3 import ast
from openqasm3 import parser as reference

from app.primitives.qasm.place import MESSAGE_CHARS, Place, Rejected

if TYPE_CHECKING:
    from antlr4 import ParserRuleContext
    from antlr4.tree.Tree import TerminalNode

#: Versions of the language that have one meaning here.
VERSIONS = ("3", "3.0", "3.1")

_PLACED = re.compile(r"L(\d+):C(\d+): (.*)", re.DOTALL)


def parse(source: str) -> ast.Program:
    """The syntax tree of a program.

    Raises:
        Rejected: the text is no OpenQASM 3.
    """
    lexer = reference.qasm3Lexer(InputStream(source))
    parser = reference.qasm3Parser(CommonTokenStream(lexer))
    for recogniser in (lexer, parser):
        # The listeners that are there print to stderr.
        recogniser.removeErrorListeners()
        recogniser.addErrorListener(_Listener())
    try:
        program: ast.Program = reference.QASMNodeVisitor().visitProgram(parser.program())
    except reference.QASM3ParsingError as exc:
        placed = _PLACED.fullmatch(str(exc))
        if placed is None:
            raise Rejected("syntax", str(exc)[:MESSAGE_CHARS] or "this is no OpenQASM 3") from exc
        place = Place(int(placed[1]), int(placed[2]) + 1)
        raise Rejected("syntax", placed[3][:MESSAGE_CHARS], place) from exc
    if program.version is not None and program.version not in VERSIONS:
        message = f"OpenQASM {program.version[:16]}; versions {', '.join(VERSIONS)} are read here"
        raise Rejected("version", message, _header(source))
    return program


def _header(source: str) -> Place:
    """Where the version stands: comments may stand before it."""
    before = source[: source.index("OPENQASM")]
    return Place(before.count("\n") + 1, len(before) - before.rfind("\n"))


class _Listener(ErrorListener):  # type: ignore[misc]  # antlr4 has no types
    """Ends the parse with the first error."""

    def syntaxError(
        self,
        _recognizer: object,
        _symbol: object,
        line: int,
        column: int,
        message: str,
        _cause: object,
    ) -> NoReturn:
        if len(message) > MESSAGE_CHARS:
            # What would have been right instead is the whole grammar.
            message = message.partition(" expecting ")[0]
        raise Rejected("syntax", message[:MESSAGE_CHARS], Place(line, column + 1))


def _span(node: ParserRuleContext | TerminalNode) -> ast.Span:
    """Where a node stands.

    openqasm3 1.0.1 gives a single token's offset in the file where its column belongs.
    """
    if hasattr(node, "symbol"):
        token = node.symbol
        return ast.Span(token.line, token.column, token.line, token.column + len(token.text) - 1)
    # An empty program ends before it begins.
    stop = node.stop or node.start
    return ast.Span(node.start.line, node.start.column, stop.line, stop.column)


reference.get_span = _span
