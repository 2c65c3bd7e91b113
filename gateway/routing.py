"""Finding the operation of a path: a tree of its segments, so that a hundred routes cost what one costs.

A path's last segment may end in a verb, as in /v1/bookings/{id}:cancel. Names and ids hold no colon and are not empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class _Node(Generic[T]):
    __slots__ = ("below", "ends", "names", "parameter")

    def __init__(self) -> None:
        self.below: dict[str, _Node[T]] = {}
        self.parameter: _Node[T] | None = None
        # Verb after the colon → HTTP method → what answers, and the names of the parameters on the way.
        self.ends: dict[str, dict[str, T]] = {}
        self.names: dict[str, tuple[str, ...]] = {}


class Routes(Generic[T]):
    """Routes by path and method."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, method: str, path: str, target: T) -> None:
        """Add a route, such as GET /v1/bookings/{id}. Raises ValueError when it is there already."""
        *segments, last = path.lstrip("/").split("/")
        last, _, verb = last.partition(":")
        node = self._root
        names: list[str] = []
        for segment in [*segments, last]:
            if segment.startswith("{"):
                names.append(segment.strip("{}"))
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.below.setdefault(segment, _Node())
        methods = node.ends.setdefault(verb, {})
        if method in methods or node.names.setdefault(verb, tuple(names)) != tuple(names):
            raise ValueError(f"{method} {path} is a route already")
        methods[method] = target

    def find(self, path: str) -> tuple[Mapping[str, T], dict[str, str]] | None:
        """What answers at a path, by method, and the parameters in it; None when there is no such route."""
        *segments, last = path[1:].split("/")
        last, colon, verb = last.partition(":")
        if colon and not verb:
            return None
        node = self._root
        values: list[str] = []
        for segment in (*segments, last):
            below = node.below.get(segment)
            if below is None:
                below = node.parameter
                if below is None or not segment:
                    return None
                values.append(segment)
            node = below
        methods = node.ends.get(verb)
        if methods is None:
            return None
        return methods, dict(zip(node.names[verb], values, strict=True))
