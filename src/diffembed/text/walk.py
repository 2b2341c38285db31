"""From paths to files: walks folders, honours ``.gitignore`` and ``.ignore``, and says why it leaves a file out.

The walk only looks at names and file types; whether a file's content can be read is for ``readers.py`` to say.
Whatever is left out is yielded with its reason, a folder once and not file by file: as ``Excluded`` where a rule says
so, as plain ``Skipped`` where a file could not be read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from diffembed.errors import InputError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

INDEX_MARKER = "diffembed-index.sqlite"
"""A folder that holds a file of this name is an index of ours, not text to read."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A regular file: absolute path, size in bytes, time of last change in nanoseconds."""

    path: Path
    size: int
    mtime_ns: int


class Skipped(NamedTuple):
    """A file or folder that was left out, and why."""

    path: Path
    reason: str


class Excluded(Skipped):
    """Left out by a rule: hidden, listed in an ignore file, a link, an index of ours."""

    __slots__ = ()


def resolve_roots(paths: Sequence[str | Path] | str | Path) -> list[Path]:
    """Absolute paths, each once, a path inside another one left to that one. A single path stands for a list of one.

    Raises:
        InputError: none given, or one that does not exist or is neither a file nor a folder.

    >>> resolve_roots(["/usr/lib", "/usr/lib/../lib", "/usr"])
    [PosixPath('/usr')]
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    if not paths:
        raise InputError("no path given: name at least one file or folder to read")
    roots: set[Path] = set()
    for given in paths:
        if not str(given).strip():
            raise InputError("an empty path was given: name a file or a folder")
        try:
            path = Path(given).resolve(strict=True)
        except FileNotFoundError:
            raise InputError(f"{given}: no such file or folder; check the path") from None
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"{given}: cannot be opened ({_why(error)}); check the path and its rights") from None
        if not (path.is_dir() or path.is_file()):
            raise InputError(f"{given}: neither a file nor a folder; name one that holds text")
        roots.add(path)
    return sorted(path for path in roots if not any(parent in roots for parent in path.parents))


def walk(roots: Iterable[Path]) -> Iterator[FileEntry | Skipped]:
    """Every file under ``roots`` (absolute, as ``resolve_roots`` gives them), in the order of their names.

    Left out, with a reason: hidden files and folders, what ``.gitignore`` excludes (the rules of the enclosing git work
    tree included), what ``.ignore`` excludes (the same rules for search tools only, as other ones read them), symbolic
    links, sockets and the like, indexes of diffembed, names that are not UTF-8. A root itself is always read, also when
    it is hidden or excluded: the caller named it.
    """
    for root in roots:
        if root.is_dir():
            yield from _walk_folder(root, _enclosing_rules(root))
        else:
            entry = _file_entry(root)
            if entry is not None:
                yield entry


_IGNORE_FILES = (".gitignore", ".ignore")  # the later one has the last word
_Rules = list[tuple[Path, str, "GitIgnoreSpec"]]


def _walk_folder(folder: Path, rules: _Rules) -> Iterator[FileEntry | Skipped]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        yield Skipped(folder, f"the folder cannot be listed ({_why(error)})")
        return
    names = {entry.name for entry in found}
    if INDEX_MARKER in names:
        yield Excluded(folder, "an index made by diffembed")
        return
    rules = [*rules, *_read_rules(folder, [name for name in _IGNORE_FILES if name in names])]
    for entry in found:
        path = folder / entry.name
        left_out = _left_out(entry, path, rules)
        if left_out is not None:
            yield left_out
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk_folder(path, rules)
        else:
            file = _file_entry(path)
            yield file if file is not None else Skipped(path, "vanished while the folder was read")


def _left_out(entry: os.DirEntry[str], path: Path, rules: _Rules) -> Skipped | None:
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return Skipped(path, "the file name is not UTF-8; rename it to have it read")
    is_folder = entry.is_dir(follow_symlinks=False)
    if entry.name.startswith("."):
        return Excluded(path, "hidden folder" if is_folder else "hidden file")
    if entry.is_symlink():
        return Excluded(path, "symbolic link, not followed")
    ignored_by = _ignored_by(path, is_folder, rules)
    if ignored_by is not None:
        return Excluded(path, f"excluded by {ignored_by}")
    if not is_folder and not entry.is_file(follow_symlinks=False):
        return Excluded(path, "not a regular file")
    return None


def _file_entry(path: Path) -> FileEntry | None:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return FileEntry(path, info.st_size, info.st_mtime_ns) if stat.S_ISREG(info.st_mode) else None


def _ignored_by(path: Path, is_folder: bool, rules: _Rules) -> str | None:
    # As in git, the nearest ignore file that has an opinion decides.
    for base, name, spec in reversed(rules):
        relative = path.relative_to(base).as_posix()
        verdict = spec.check_file(relative + "/" if is_folder else relative).include
        if verdict is not None:
            return name if verdict else None
    return None


def _enclosing_rules(folder: Path) -> _Rules:
    """The ignore files above ``folder``, outermost first, if it lies in a git work tree."""
    for top in folder.parents:
        if (top / ".git").exists():
            between = [p for p in reversed(folder.parents) if p == top or top in p.parents]
            return [rule for parent in between for rule in _read_rules(parent, _IGNORE_FILES)]
    return []


def _read_rules(folder: Path, names: Sequence[str]) -> _Rules:
    rules: _Rules = []
    for name in names:
        try:
            lines = (folder / name).read_text("utf-8", errors="replace").splitlines()
        except OSError:
            continue
        from pathspec import GitIgnoreSpec  # most folders have no ignore file

        rules.append((folder, name, GitIgnoreSpec.from_lines(lines)))
    return rules


def _why(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.lower()
