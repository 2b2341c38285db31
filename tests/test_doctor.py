"""The doctor: what it looks at, what it calls broken, and that every broken point comes with its mend."""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from pathlib import Path

import pytest

from diffembed import doctor
from diffembed.doctor import BASE, EXTRAS, Finding, diagnose

REPO = Path(__file__).parents[1]


def by_name(findings: tuple[Finding, ...]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def requirements(lines: list[str]) -> dict[str, str]:
    parsed = (re.fullmatch(r"([\w.-]+)>=([\d.]+)(?:,.*)?", line) for line in lines)
    return {match.group(1): match.group(2) for match in parsed if match}


def test_the_doctor_knows_what_the_project_file_asks_for() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {name: least for name, _, least in BASE} == requirements(project["dependencies"])
    for extra, known in EXTRAS.items():
        assert dict(known) == requirements(project["optional-dependencies"][extra])


def test_a_whole_model_and_a_writable_cache_are_healthy(tiny_model_dir: Path, tmp_path: Path) -> None:
    diagnosis = diagnose(bundled=tiny_model_dir, cache=tmp_path / "not" / "yet")
    assert diagnosis.healthy, diagnosis
    found = by_name(diagnosis.findings)
    assert "widths 16, 32, 64" in found["embedded model"].detail
    assert not (tmp_path / "not").exists()  # looking changes nothing


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "config.json"])
def test_a_damaged_model_is_broken_with_its_mend(name: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    os.truncate(model / name, 10)
    diagnosis = diagnose(bundled=model, cache=tmp_path)
    found = by_name(diagnosis.findings)["embedded model"]
    assert not diagnosis.healthy
    assert found.status == "broken"
    assert name in found.detail
    assert found.mend


def test_a_library_that_does_not_import_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "BASE", (("numpy", "numpy", "2.0"), ("faiss-cpu", "no_such_module", "1.9")))
    diagnosis = diagnose(bundled=tmp_path, cache=tmp_path)
    found = by_name(diagnosis.findings)
    assert found["faiss-cpu"].status == "broken"
    assert "pip install --force-reinstall 'faiss-cpu>=1.9'" in found["faiss-cpu"].mend
    assert found["runtime"].status == "broken"
    assert all(finding.mend for finding in diagnosis.findings if finding.status == "broken")


def test_an_old_library_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "BASE", (("numpy", "numpy", "99.1"),))
    found = by_name(diagnose(bundled=tmp_path, cache=tmp_path).findings)["numpy"]
    assert found.status == "broken"
    assert "too old" in found.detail


def test_a_missing_extra_is_a_note(monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "EXTRAS", {"train": (("no-such-distribution", "1"),)})
    diagnosis = diagnose(bundled=tiny_model_dir, cache=tmp_path)
    found = by_name(diagnosis.findings)["extra train"]
    assert diagnosis.healthy
    assert found.status == "note"
    assert found.mend.endswith("pip install 'diffembed[train]'")


def test_a_cache_that_cannot_be_made_is_broken(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("", encoding="utf-8")
    found = by_name(diagnose(bundled=tmp_path, cache=in_the_way / "cache").findings)["cache folder"]
    assert found.status == "broken"
    assert "XDG_CACHE_HOME" in found.mend


def test_little_free_disk_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_LEAST_FREE_BYTES", 1 << 62)
    assert by_name(diagnose(bundled=tmp_path, cache=tmp_path).findings)["disk"].status == "broken"
