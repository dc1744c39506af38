"""Find what must not be parted between splits, because it shares a text or a recording."""

from collections.abc import Hashable, Iterable
from pathlib import Path

from sir_jax.data.builders.chunk_files import digest


def joined(marks: Iterable[tuple[str, Iterable[Hashable]]]) -> dict[str, str]:
    """Return for each name the first name, in their order, of all that it is connected with.

    Args:
      marks: names, each with what connects it with others that have the same.

    Example:
      >>> joined([("a", [1]), ("b", [2]), ("c", [1, 3]), ("d", [3])])
      {'a': 'a', 'b': 'b', 'c': 'a', 'd': 'a'}
    """
    leader: dict[str, str] = {}
    owner: dict[Hashable, str] = {}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = name = leader[leader[name]]
        return name

    for name, shared in marks:
        leader.setdefault(name, name)
        for mark in shared:
            one, other = sorted((find(owner.setdefault(mark, name)), find(name)))
            leader[other] = one
    return {name: find(name) for name in leader}


def content(path: Path) -> Hashable:
    """Return what identifies a file's content; its path if it cannot be read."""
    try:
        return digest(path.read_bytes())
    except OSError:
        return path
