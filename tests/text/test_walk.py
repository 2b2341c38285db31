from __future__ import annotations

import os
from pathlib import Path

import pytest

from diffembed.errors import InputError
from diffembed.text.walk import INDEX_MARKER, FileEntry, Skipped, resolve_roots, walk


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text")


def found(*roots: Path) -> list[str]:
    return [e.path.relative_to(roots[0]).as_posix() for e in walk(resolve_roots(roots)) if isinstance(e, FileEntry)]


def skipped(*roots: Path) -> dict[str, str]:
    return {
        e.path.relative_to(roots[0]).as_posix(): e.reason for e in walk(resolve_roots(roots)) if isinstance(e, Skipped)
    }


def test_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    make(tmp_path, "b.txt", "a/z.txt", "a/B.txt", "日本.txt")
    assert found(tmp_path) == ["a/B.txt", "a/z.txt", "b.txt", "日本.txt"]


def test_hidden_and_links_are_left_out_with_a_reason(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", ".env", ".git/config")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    os.mkfifo(tmp_path / "pipe")
    assert found(tmp_path) == ["a.txt"]
    assert skipped(tmp_path) == {
        ".env": "hidden file",
        ".git": "hidden folder",
        "loop": "symbolic link, not followed",
        "link.txt": "symbolic link, not followed",
        "pipe": "not a regular file",
    }


def test_gitignore_the_nearest_rule_decides(tmp_path: Path) -> None:
    make(tmp_path, "a.log", "keep.log", "build/x.txt", "sub/b.log", "sub/c.log", "sub/only.txt", "only.txt")
    (tmp_path / ".gitignore").write_text("# comment\n*.log\n!keep.log\nbuild/\n/only.txt\n")
    (tmp_path / "sub/.gitignore").write_text("!b.log\n")
    assert found(tmp_path) == ["keep.log", "sub/b.log", "sub/only.txt"]
    assert skipped(tmp_path)["build"] == "excluded by .gitignore"


def test_an_ignore_file_is_for_searching_only_and_has_the_last_word(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "b.txt", "c.txt")
    (tmp_path / ".gitignore").write_text("a.txt\nb.txt\n")
    (tmp_path / ".ignore").write_text("!a.txt\nc.txt\n")
    assert found(tmp_path) == ["a.txt"]
    assert skipped(tmp_path) == {
        ".gitignore": "hidden file",
        ".ignore": "hidden file",
        "b.txt": "excluded by .gitignore",
        "c.txt": "excluded by .ignore",
    }


def test_gitignore_above_the_root_counts_inside_a_work_tree_only(tmp_path: Path) -> None:
    make(tmp_path, "repo/src/a.txt", "repo/src/a.tmp")
    (tmp_path / "repo/.gitignore").write_text("*.tmp\n")
    assert found(tmp_path / "repo/src") == ["a.tmp", "a.txt"]
    (tmp_path / "repo/.git").mkdir()
    assert found(tmp_path / "repo/src") == ["a.txt"]
    # what the caller names is read, whatever the rules say
    assert len(list(walk(resolve_roots([tmp_path / "repo/src/a.tmp"])))) == 1


def test_an_index_inside_the_folder_is_not_text(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", f"my.index/{INDEX_MARKER}", "my.index/b.txt")
    assert found(tmp_path) == ["a.txt"]
    assert skipped(tmp_path) == {"my.index": "an index made by diffembed"}


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    make(tmp_path, "a.txt")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))).write_text("x")
    entries = list(walk(resolve_roots([tmp_path])))
    assert [e.reason for e in entries if isinstance(e, Skipped)] == [
        "the file name is not UTF-8; rename it to have it read"
    ]


def test_roots_once_and_without_what_is_inside_another(tmp_path: Path) -> None:
    make(tmp_path, "a/b.txt")
    assert resolve_roots([tmp_path / "a", tmp_path / "a/b.txt", tmp_path / "a/../a"]) == [(tmp_path / "a").resolve()]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "no path given"),
        (["missing"], "no such file or folder"),
        ([" "], "empty path"),
        (["a\0b"], "cannot be opened"),
    ],
)
def test_unusable_paths(paths: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        resolve_roots(paths)
    assert "\n" not in str(error.value)
