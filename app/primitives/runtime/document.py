"""What stands in a JSON document, and where? Nothing is trusted that was not asked for by type."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from app.errors import InvalidProgram

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from app.config import ProgramLimits

#: Key of an object that stands for a value JSON has no word for, and of what it is made from.
TYPE, VALUE = "__type__", "__value__"
#: Longest text that is no blob: a name, a word, a key.
TEXT_CHARS = 4096
#: Integers that the encoder of results can write.
_LEAST, _LARGEST = -(2**63), 2**64 - 1
#: How much of a foreign key or value is shown in a message.
_SHOWN_CHARS = 40

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class _Repeated:
    """An object in which a key occurs twice."""

    def __init__(self, key: str) -> None:
        self.key = key


class Node:
    """A value in the document, and the way to it."""

    __slots__ = ("above", "key", "meaning", "value")

    def __init__(self, value: Any, above: Node | None = None, key: str | int = "") -> None:
        self.value = value
        self.above = above
        self.key = key
        #: what a place that has only a number is for.
        self.meaning = ""

    @property
    def path(self) -> str:
        """Where the value stands, as in ``pubs[2][0]``; ``params`` is the whole document."""
        steps: list[str] = []
        node: Node | None = self
        while node is not None and node.above is not None:
            key = node.key
            if isinstance(key, int):
                steps.append(f"[{key}]")
            elif key.isidentifier() and len(key) <= _SHOWN_CHARS:
                steps.append(f".{key}")
            else:
                steps.append(f"[{key[:_SHOWN_CHARS]!r}]")
            node = node.above
        return "".join(reversed(steps)).removeprefix(".") or str(self.key)

    def refused(self, reason: str, message: str) -> InvalidProgram:
        """Make the error that blames this value."""
        meaning = f" ({self.meaning})" if self.meaning else ""
        return InvalidProgram(reason, f"{self.path}: {message}{meaning}")

    def fields(self) -> dict[str, Node]:
        """The members of a plain object.

        Raises:
            InvalidProgram: it is no object, a key occurs twice, or it stands for a typed value.
        """
        fields = self._object()
        if TYPE in fields:
            shown = repr(fields[TYPE].value)[:_SHOWN_CHARS]
            raise self.refused("type_not_allowed", f"a value of type {shown} is not allowed here")
        return fields

    def elements(self, most: int | None = None) -> list[Node]:
        """The elements of a list of at most ``most``."""
        if not isinstance(self.value, list):
            raise self._not_a("list")
        if most is not None and len(self.value) > most:
            message = f"{len(self.value)} elements; at most {most} are allowed"
            raise self.refused("too_many_elements", message)
        return [Node(element, self, i) for i, element in enumerate(self.value)]

    def nested(self) -> tuple[tuple[int, ...], list[Node]]:
        """Shape of lists in lists, and what stands in the innermost ones, the last index fastest.

        Raises:
            InvalidProgram: lists of one level differ in length, or hold lists and other values.
        """
        shape: list[int] = []
        level = [self]
        while level and any(isinstance(node.value, list) for node in level):
            lists = [node.elements() for node in level]
            length = len(lists[0])
            for node, elements in zip(level, lists, strict=True):
                if len(elements) != length:
                    message = f"{len(elements)} elements where its neighbours have {length}"
                    raise node.refused("ragged", message)
            shape.append(length)
            level = [element for elements in lists for element in elements]
        return tuple(shape), level

    def typed(self, *names: str, also: Sequence[str] = ()) -> tuple[str, Node, dict[str, Node]]:
        """A value of one of these types.

        Args:
            names: types that are allowed.
            also: keys that stand besides type and value.

        Returns:
            its type, what it is made from, and the other keys.
        """
        fields = self._object()
        name = fields[TYPE].value if TYPE in fields else None
        if name not in names:
            allowed = " or ".join(names)
            shown = "an object" if name is None else repr(name)[:_SHOWN_CHARS]
            raise self.refused("type_not_allowed", f"must be of type {allowed}, not {shown}")
        if fields.keys() != {TYPE, VALUE, *also}:
            message = f"a value of type {name} has the keys {', '.join((TYPE, VALUE, *also))} only"
            raise self.refused("wrong_keys", message)
        return str(name), fields[VALUE], fields

    def is_typed(self) -> bool:
        """Whether it stands for a value JSON has no word for."""
        return isinstance(self.value, dict) and TYPE in self.value

    def text(self, most: int = TEXT_CHARS) -> str:
        """A text of at most so many characters."""
        value = self.value
        if not isinstance(value, str):
            raise self._not_a("text")
        if len(value) > most:
            raise self.refused("too_long", f"{len(value)} characters; at most {most} are allowed")
        if not _is_unicode(value):
            raise self.refused("encoding", "half of a surrogate pair is no character")
        return value

    def word(self, *words: str) -> str:
        """One of these words."""
        if self.value not in words or not isinstance(self.value, str):
            allowed = ", ".join(map(repr, words))
            shown = repr(self.value)[:_SHOWN_CHARS]
            raise self.refused("unknown_word", f"{shown} is not one of {allowed}")
        return self.value

    def boolean(self) -> bool:
        """``true`` or ``false``."""
        if not isinstance(self.value, bool):
            raise self._not_a("boolean")
        return self.value

    def integer(self, least: int = _LEAST, most: int = _LARGEST) -> int:
        """An integer in this range, ends included."""
        if type(self.value) is not int:
            raise self._not_a("integer")
        if not least <= self.value <= most:
            shown = self.value if abs(self.value) <= _LARGEST else "this"
            raise self.refused("out_of_range", f"{shown} is not in the range {least} to {most}")
        return self.value

    def number(self, least: float = -math.inf, most: float = math.inf) -> float:
        """A finite number in this range, ends included."""
        if type(self.value) is int:
            value = float(self.integer())
        elif type(self.value) is float:
            value = self.value
        else:
            raise self._not_a("number")
        if not math.isfinite(value):
            raise self.refused("not_finite", "must be a finite number")
        if not least <= value <= most:
            raise self.refused("out_of_range", f"{value} is not in the range {least} to {most}")
        return value

    def plain(
        self, types: Mapping[str, Callable[[Node], Any]] | None, *, chars: int = TEXT_CHARS
    ) -> Any:
        """The value as it is, all of it checked.

        Args:
            types: types of values that may stand in it, and what reads them; None: such values
                are left as they came.
            chars: longest text in it.
        """
        value = self.value
        if isinstance(value, str):
            return self.text(chars)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return self.integer()
        if isinstance(value, float):
            return self.number()
        if isinstance(value, list):
            return [element.plain(types, chars=chars) for element in self.elements()]
        if types and self.is_typed():
            name, _, _ = self.typed(*types)
            return types[name](self)
        fields = self._object() if types is None else self.fields()
        return {key: field.plain(types, chars=chars) for key, field in fields.items()}

    def _object(self) -> dict[str, Node]:
        value = self.value
        if isinstance(value, _Repeated):
            shown = repr(value.key[:_SHOWN_CHARS])
            raise self.refused("duplicate_key", f"the key {shown} occurs twice")
        if not isinstance(value, dict):
            raise self._not_a("object")
        for key in value:
            if len(key) > TEXT_CHARS or not _is_unicode(key):
                raise self.refused("bad_key", "a key is too long, or not Unicode")
        return {key: Node(field, self, key) for key, field in value.items()}

    def _not_a(self, wanted: str) -> InvalidProgram:
        article = "an" if wanted[0] in "aeiou" else "a"
        return self.refused("wrong_type", f"must be {article} {wanted}, not {_kind(self.value)}")


def parse(document: bytes, limits: ProgramLimits) -> Node:
    """The document, of which nothing but its number of values and their nesting has been checked.

    Raises:
        InvalidProgram: it is no JSON, or above a limit.
    """
    return Node(parse_at(Node(None, key="params"), document, limits), key="params")


def parse_at(top: Node, document: bytes, limits: ProgramLimits) -> Any:
    """The same for a document within the document; ``top`` is where it stands."""
    bare = _STRING.sub(b"", document)
    values = sum(bare.count(mark) for mark in (b",", b"[", b"{"))
    if values > limits.json_values:
        message = f"more than the {limits.json_values} values allowed"
        raise top.refused("too_many_values", message)
    depth = 0
    for bracket in bare.translate(None, delete=_NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > limits.json_depth:
            message = f"lists and objects nest deeper than the {limits.json_depth} levels allowed"
            raise top.refused("too_deep", message)
    try:
        return json.loads(document.decode(), object_pairs_hook=_object)
    except UnicodeDecodeError as exc:
        raise top.refused("encoding", "not valid UTF-8") from exc
    except json.JSONDecodeError as exc:
        message = f"not valid JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}"
        raise top.refused("json", message) from exc
    except ValueError as exc:
        raise top.refused("json", "a number has too many digits") from exc


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Repeated:
    fields = dict(pairs)
    if len(fields) == len(pairs):
        return fields
    seen: set[str] = set()
    return _Repeated(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, (int, float)):
        return f"the number {value}" if abs(value) <= _LARGEST else "a number"
    return "a list" if isinstance(value, list) else "an object"
