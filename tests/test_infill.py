"""Infilling against a loop over stock attention, what a trained model writes, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.cli.invoke import run
from tests.conftest import CORPUS, make_backbone, make_config
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from diffembed.errors import InputError, ModelError
from diffembed.infill import _Layout, infill, newest_diffusion_model
from diffembed.models.checkpoint import ModelConfig, load_backbone, save_model
from diffembed.models.embedder import Embedder
from diffembed.models.pretrained import load_pretrained
from diffembed.text.batching import TokenizedSequence, pack
from diffembed.training.configs import StageConfig
from diffembed.training.lm import eligible_tokens, lm_losses, make_objective, objective_facts, plan_targets

MASK, EOT = 1, 2
TEXT = "Diffusion language ____ mask [MASK] and learn"


def _config(manifest: dict[str, Any], *, shift: bool = True) -> ModelConfig:
    from dataclasses import replace

    return replace(make_config(), manifest=manifest, shift=shift)


def _stage(kind: Any = "diffusion", *, shift: bool = True) -> StageConfig:
    return StageConfig("s", kind, 1, 1, 1e-3, (), shift=shift)


@pytest.fixture(scope="module")
def random_models(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any, tiny_backbone: Any) -> dict[str, Path]:
    """Random weights under manifests of several kinds."""
    root = tmp_path_factory.mktemp("infill")
    manifests: dict[str, dict[str, Any]] = {
        "diffusion": {"objective": objective_facts(_stage(), MASK)},
        "unshifted": {"objective": objective_facts(_stage(shift=False), MASK)},
        "causal": {"objective": objective_facts(_stage("causal"), MASK)},
        "pair": {"objective": objective_facts(_stage("pair"), MASK)},
        "unrecorded": {"recipe": "tests"},
    }
    for name, manifest in manifests.items():
        save_model(root / name, tiny_backbone, tiny_tokenizer, _config(manifest, shift=name != "unshifted"))
    return {name: root / name for name in manifests}


@torch.no_grad()
def _by_hand(model: Path, ids: list[int], steps: int, *, shift: bool) -> list[list[tuple[int, int]]]:
    """(place, token) written in each step: stock eager attention, the whole sequence scored, one loop a step."""
    backbone = load_backbone(model, attn_implementation="eager")
    table = backbone.get_input_embeddings().weight
    found = []
    for step in range(steps):
        states = backbone(input_ids=torch.tensor([ids])).last_hidden_state[0]
        sure = []
        for place in [i for i, x in enumerate(ids) if x == MASK]:
            scores = states[place - int(shift)] @ table.T
            scores[[0, 1, 2]] = -torch.inf
            probabilities = scores.softmax(-1)
            sure.append((float(probabilities.max()), place, int(probabilities.argmax())))
        count = -(-len(sure) // (steps - step))
        best = sorted(sure, key=lambda x: -x[0])[:count]
        for _, place, token in best:
            ids[place] = token
        found.append([(place, token) for _, place, token in best])
    return found


@pytest.mark.parametrize("name", ["diffusion", "unshifted"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_denoising_equals_the_loop(name: str, steps: int, random_models: dict[str, Path], tiny_tokenizer: Any) -> None:
    report = infill(TEXT, model=random_models[name], tokens=[2, 3], steps=steps)
    first, second, third = (
        tiny_tokenizer.encode(t, add_special_tokens=False).ids for t in ("Diffusion language", " mask", " and learn")
    )
    ids = [*first, MASK, MASK, *second, MASK, MASK, MASK, *third, EOT]
    expected = _by_hand(random_models[name], list(ids), steps, shift=name == "diffusion")
    places = [i for i, x in enumerate(ids) if x == MASK]
    written = [t for blank in report.blanks for t in blank.tokens]
    ours = [[(p, t.id) for p, t in zip(places, written, strict=True) if t.step == s + 1] for s in range(steps)]
    assert ours == [sorted(x) for x in expected]
    assert report.steps == steps
    assert [len(b.tokens) for b in report.blanks] == [2, 3]


def test_the_filled_text_keeps_what_was_there(random_models: dict[str, Path]) -> None:
    report = infill(TEXT, model=random_models["diffusion"])
    one, two = (b.text for b in report.blanks)
    assert report.filled == f"Diffusion language{one} mask{two} and learn"
    assert [t.text for b in report.blanks for t in b.tokens] == [one, two]
    for blank in report.blanks:
        assert len(blank.alternatives) == 5
        odds = [p for _, p in blank.alternatives]
        assert odds == sorted(odds, reverse=True) and 0 < sum(odds) <= 1
        assert not {"[mask]", "[pad]", "<|endoftext|>"} & {t for t, _ in blank.alternatives}
    assert max(t.probability for b in report.blanks for t in b.tokens if t.step == 1) == max(
        b.alternatives[0][1] for b in report.blanks
    ), "the surest token of the first reading is written first"


def test_one_underscore_is_no_blank(random_models: dict[str, Path]) -> None:
    report = infill("my_var = __ # not _", model=random_models["diffusion"])
    assert len(report.blanks) == 1
    assert report.filled == f"my_var ={report.blanks[0].text} # not _"
    with pytest.raises(InputError, match="no blank; write ____ .two underscores or more."):
        infill("my_var = _", model=random_models["diffusion"])


def _spaced_tokenizer(kind: str) -> Tokenizer:
    """A tokenizer that begins whatever it encodes as a word."""
    tokenizer = Tokenizer(models.BPE(unk_token="[unk]"))
    if kind == "byte-level":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
    elif kind == "prepend":  # as Mistral v0.1 and Llama 2 are stored
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=kind)
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["[pad]", "[mask]", "<|endoftext|>", "[unk]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@pytest.mark.parametrize("kind", ["always", "first", "prepend", "byte-level"])
def test_a_text_goes_on_after_a_blank_as_it_stands(kind: str, tmp_path: Path) -> None:
    """Of a vocabulary that marks where words begin, only what follows a space is marked."""
    tokenizer = _spaced_tokenizer(kind)
    backbone = make_backbone(tokenizer.get_vocab_size())
    manifest = {"objective": objective_facts(_stage(), MASK)}
    model = save_model(tmp_path / kind, backbone, tokenizer, _config(manifest))
    space = "Ġ" if kind == "byte-level" else "▁"
    pieces = ["The quick ", "er fox jumps ", " over the", ". and"]
    layout = _Layout(pieces, [1, 1, 2], load_pretrained(model))
    read = [tokenizer.id_to_token(i) for i in layout.batch.token_ids.tolist()]
    own = "".join(read).removesuffix("<|endoftext|>").split("[mask]")
    assert own == [f"{space}The{space}quick", f"er{space}fox{space}jumps", f"{space}over{space}the", "", f".{space}and"]

    report = infill("____".join(pieces), model=model, tokens=[1, 1, 2])
    written = [t for blank in report.blanks for t in blank.tokens]
    ids, tokens = layout.batch.token_ids.tolist()[:-1], iter(written)
    ids = [next(tokens).id if i == MASK else i for i in ids]
    assert report.filled == tokenizer.decode(ids, skip_special_tokens=False).removeprefix(" ")
    for blank in report.blanks:
        assert "".join(t.text for t in blank.tokens) == blank.text, "a token is spelled with its space"


def test_temperature_draws_by_the_seed(random_models: dict[str, Path]) -> None:
    def drawn(seed: int) -> str:
        return infill(TEXT, model=random_models["diffusion"], tokens=[4], temperature=2.0, seed=seed).filled

    assert drawn(1) == drawn(1)
    assert len({drawn(s) for s in (2, 3)}) > 1


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A model that has read one sentence a hundred times."""
    backbone = make_backbone(tiny_tokenizer.get_vocab_size(), seed=1)
    backbone.set_attn_implementation("diffembed_packed")
    embedder, stage = Embedder(backbone), _stage()
    ids = (*tiny_tokenizer.encode(CORPUS[0], add_special_tokens=False).ids, EOT)
    batch = pack([TokenizedSequence(ids, ((0, len(ids)),))] * 6)
    optimizer = torch.optim.AdamW(embedder.parameters(), lr=4e-3)
    for step in range(60):
        targets = plan_targets([batch], make_objective(stage, MASK), np.random.default_rng(step))
        (loss,) = lm_losses(embedder, targets, eligible_total=eligible_tokens(targets))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    path = tmp_path_factory.mktemp("taught") / "model"
    return save_model(path, backbone, tiny_tokenizer, _config({"objective": objective_facts(stage, MASK)}))


def test_a_trained_model_writes_what_it_has_read(taught: Path, tiny_tokenizer: Any) -> None:
    text = CORPUS[0].replace(" dog", " ____", 1)
    assert text != CORPUS[0]
    count = len(tiny_tokenizer.encode(" dog", add_special_tokens=False).ids)
    ran = run("infill", text, "--model", taught, "--tokens", str(count))
    assert ran.code == 0, ran.stderr
    assert ran.stdout == CORPUS[0] + "\n"
    assert "blank 1: ' dog'" in ran.stderr
    report = run("infill", text, "--model", taught, "--tokens", str(count), "--json").json
    assert report["filled"] == CORPUS[0] and report["text"] == text
    assert report["blanks"][0]["tokens"][0]["probability"] > 0.5


def test_without_a_model_the_newest_diffusion_model_is_taken(
    random_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run("infill", "a ____").fails(3, "no diffusion model", "diffembed pretrain")
    for age, name in enumerate(["pair", "causal", "diffusion", "unshifted"]):
        link = tmp_path / "out" / "run" / name
        link.mkdir(parents=True)
        for file in random_models[name].iterdir():
            if file.is_file():
                (link / file.name).write_bytes(file.read_bytes())
        os.utime(link / "diffembed.json", (1e9 - age, 1e9 - age))
    (tmp_path / "out" / "broken").mkdir()
    (tmp_path / "out" / "broken" / "diffembed.json").write_text("{", encoding="utf-8")
    assert newest_diffusion_model([tmp_path / "out"]).name == "diffusion"
    ran = run("infill", "a ____")
    assert ran.code == 0 and ran.stdout.startswith("a")
    assert os.path.join("out", "run", "diffusion") in ran.stderr


def test_what_is_refused(random_models: dict[str, Path], tmp_path: Path) -> None:
    model = random_models["diffusion"]
    run("infill", "no blank", "--model", model).fails(2, "____")
    run("infill", "____ is first", "--model", model).fails(2, "begins with a blank")
    run("infill", "a ____ b ____", "--model", model, "-n", "1", "-n", "2", "-n", "3").fails(2, "1, 2, 3", "2 blanks")
    run("infill", "a " * 200 + "____", "--model", model).fails(2, "128")
    run("infill", "a ____", "--model", model, "--steps", "0").fails(2, "--steps")
    run("infill", "a ____", "--model", random_models["causal"]).fails(3, "next token only", "diffusion stage")
    run("infill", "a ____", "--model", random_models["pair"]).fails(3, "on pairs last", "diffusion stage")
    run("infill", "a ____", "--model", random_models["unrecorded"]).fails(3, "records no diffusion training")
    run("infill", "a ____", "--model", tmp_path / "nowhere").fails(3, "nowhere")
    with pytest.raises(InputError, match="temperature nan"):
        infill("a ____", model=model, temperature=float("nan"))
    assert infill("____ is first", model=random_models["unshifted"]).filled.endswith(" is first")


def test_a_stock_causal_checkpoint_is_refused(tmp_path: Path, tiny_tokenizer: Any) -> None:
    backbone = make_backbone(tiny_tokenizer.get_vocab_size())
    backbone.config.is_causal = True
    backbone.save_pretrained(tmp_path / "stock")
    config = json.loads((tmp_path / "stock" / "config.json").read_text(encoding="utf-8"))
    config.pop("is_causal", None)
    (tmp_path / "stock" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tiny_tokenizer.save(str(tmp_path / "stock" / "tokenizer.json"))
    with pytest.raises(ModelError, match="of type qwen3, not a diffusion language model"):
        infill("a ____", model=tmp_path / "stock")
