"""Every example of docs/integrations.md runs, as it stands, where its framework is installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diffembed.doctor import BUNDLED

TEXT = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
EXAMPLES = [
    (name, code)
    for name, section in SECTIONS
    for code in re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
]
NEEDS = {
    "sentence-transformers": "sentence_transformers",
    "LangChain": "langchain_core",
    "LlamaIndex": "llama_index.core",
    "Haystack": "haystack",
    "scikit-learn": "sklearn",
    "MTEB": "mteb",
}


def test_every_framework_has_an_example() -> None:
    assert list(dict.fromkeys(name for name, _ in EXAMPLES)) == list(NEEDS)


@pytest.mark.skipif(not (BUNDLED / "diffembed.json").exists(), reason="the embedded model has not been trained yet")
@pytest.mark.filterwarnings("ignore")  # what frameworks warn about in themselves
@pytest.mark.parametrize(("name", "code"), EXAMPLES, ids=[f"{name}-{n}" for n, (name, _) in enumerate(EXAMPLES)])
def test_example_runs(
    name: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(NEEDS[name])
    monkeypatch.chdir(tmp_path)
    exec(code, {"__name__": "example"})
    said = capsys.readouterr().out
    assert "sofa" in said or "pets" in said or re.search(r"\d\.\d", said), said
