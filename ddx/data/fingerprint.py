"""What tells one data set from another, wherever it lies: whether a run resumes with the data that it began with.

Millions of images are not read for it. What is known of all of them without reading (names, labels, sizes) goes into
one checksum, and the content of some into another: of all where they take little room, otherwise of examples at equal
distances, the first and the last among them. So a copy in another folder is the same set; one with a changed, renamed,
reordered or relabelled image is another, unless it is a large set, and an image that is not read has changed and is as
many bytes as before.
"""

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from ddx.runtime.storage import digest

# At most so much is read of a set; of more, a part of some examples.
MOST_BYTES = 2**26
SOME = 256
SOME_BYTES = MOST_BYTES // SOME  # of each of those

_NAMED = 8  # class names in a message


class Fingerprint(NamedTuple):
    """A data set, whatever folder, file times or machine it is on."""

    version: str  # of a prepared set
    classes: tuple[str, ...]  # by label; ("",) for a set without labels
    num_examples: int
    listing: str  # checksum of what is known without reading
    content: str  # checksum of what was read

    def record(self) -> dict[str, Any]:
        """The same as a JSON object."""
        return self._asdict() | {"classes": list(self.classes)}

    @property
    def checksum(self) -> str:
        """All of it in one checksum."""
        return digest(self.record())


def checksum(parts: Iterable[bytes]) -> str:
    """The SHA-256 of byte strings, and of where each of them ends."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()


def is_read_whole(num_bytes: int) -> bool:
    """Whether a fingerprint is of every byte, for a set that takes so many."""
    return num_bytes <= MOST_BYTES


def to_read(num_examples: int, num_bytes: int) -> list[int]:
    """The examples whose content goes into the fingerprint of a set that takes `num_bytes`."""
    if is_read_whole(num_bytes) or num_examples <= SOME:
        return list(range(num_examples))
    return [(num_examples - 1) * place // (SOME - 1) for place in range(SOME)]


def differences(old: Any, new: Fingerprint) -> list[str]:
    """In what a fingerprint differs from a record of one, for people; nothing where there is no record."""
    if not isinstance(old, dict):
        return []
    now = new.record()
    changed = {name: old[name] for name in now if name in old and old[name] != now[name]}
    found = [f"version {changed['version']} -> {new.version}"] if "version" in changed else []
    if "classes" in changed:
        found.append(_classes(changed["classes"], now["classes"]))
    if "num_examples" in changed:
        found.append(f"{changed['num_examples']} example{'s' * (changed['num_examples'] != 1)} -> {new.num_examples}")
    if not found and "listing" in changed:
        found.append("the names, labels or sizes of the images")
    if not found and "content" in changed:
        found.append("the content of the images")
    return found


def _classes(old: Any, new: list[str]) -> str:
    """Such as "classes cat, dog -> dog, zebra"; of many, the first that differs."""
    old = old if isinstance(old, list) else [old]
    if max(len(old), len(new)) <= _NAMED:
        return f"classes {_names(old)} -> {_names(new)}"
    place = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    was, now = (_names(classes[place : place + 1]) for classes in (old, new))
    count = f" of {len(old)}" if len(old) == len(new) else f", {len(old)} classes -> {len(new)}"
    return f"class {place} {was} -> {now}{count}"


def _names(classes: list[Any]) -> str:
    shown = (name if str(name).isprintable() else ascii(name) for name in classes)
    return ", ".join(str(name) or "''" for name in shown) if classes not in ([], [""]) else "none"
