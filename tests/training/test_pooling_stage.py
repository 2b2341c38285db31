"""Pooling, attention and order of a stage: what it reads, what it leaves behind, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.corpora import write_examples, write_texts
from tests.training.conftest import write_run
from tests.training.contrastive_rows import END, SOURCE, TOKENIZER, grouped, pairs, stage_of, words

from diffembed.data.examples import Grouped
from diffembed.encoder import Encoder
from diffembed.errors import RecipeError, UnfinishedError
from diffembed.models.attention import PACKED
from diffembed.models.checkpoint import load_backbone, read_model_config
from diffembed.models.embedder import Embedder
from diffembed.text.batching import TokenizedSequence, pack
from diffembed.training.checks import check_recipe
from diffembed.training.configs import SourceConfig, StageConfig
from diffembed.training.contrastive_data import ContrastiveData
from diffembed.training.recipe import Recipe, read_recipe
from diffembed.training.run import run_recipe, run_stages

MASK = 1
READOUT = {"mask": MASK, "last": END}
SPANS = SourceConfig("spans", ("texts.jsonl",), kind="spans", query_tokens=6, document_tokens=20)
PAIRS = dataclasses.replace(SOURCE, paths=("pairs.jsonl",), query_tokens=5, document_tokens=12)
FILES = dataclasses.replace(SOURCE, paths=("grouped.jsonl",), document_tokens=30)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    write_examples(folder / "pairs.jsonl", pairs(30))
    write_examples(
        folder / "grouped.jsonl", [row for row in grouped(20) if isinstance(row, Grouped) and row.chunks[1:]]
    )
    write_texts(folder / "texts.jsonl", [words(i, 20 + i) for i in range(40)])
    return folder


def data(root: Path, kind: str, source: SourceConfig, name: str = "s", **keys: Any) -> ContrastiveData:
    stage = dataclasses.replace(stage_of(kind, source=(source,), **keys), name=name)
    return ContrastiveData(stage, TOKENIZER, root, 3, end_token_id=END, mask_token_id=MASK, max_tokens=64)


@pytest.mark.parametrize("pooling", ["mask", "last"])
@pytest.mark.parametrize(("kind", "source"), [("pair", PAIRS), ("pair", SPANS), ("contextual", FILES)])
def test_a_token_ends_every_text_and_chunk_within_the_limits(
    root: Path, kind: str, source: SourceConfig, pooling: str
) -> None:
    ended, plain = (data(root, kind, source, pooling=pooling) for pooling in (pooling, "mean"))
    token = READOUT[pooling]
    for step in range(4):
        batch = ended.batch(step)
        assert batch.queries > 3
        for number, sequence in enumerate(batch.sequences):
            ids = list(sequence.token_ids)
            ends = [end - 1 for _, end in sequence.spans]
            between = [end for end in ends[:-1] if token == END]  # the end token also stands between chunks
            assert [i for i, found in enumerate(ids) if found == token] == sorted(ends + [end + 1 for end in between])
            assert all(end - start >= 2 for start, end in sequence.spans)  # a token of the text, and the one to read
            assert len(ids) <= (source.query_tokens if number < batch.queries else source.document_tokens)
        for sequence in plain.batch(step).sequences:
            assert sequence.token_ids.count(token) == (len(sequence.spans) - 1) * (token == END)
    assert ended.batch(0).queries == plain.batch(0).queries


def test_stages_of_one_order_read_alike(root: Path) -> None:
    one, other = (data(root, "pair", PAIRS, name, order="tune") for name in ("a", "b"))
    own = data(root, "pair", PAIRS, "b")
    for step in range(4):
        assert one.batch(step).origins == other.batch(step).origins
    assert any(own.batch(step).origins != other.batch(step).origins for step in range(4))
    named = dataclasses.replace(one.stage, name="tune", order="")  # the order is the name that the seed is made of
    assert data(root, "pair", PAIRS, "tune").batch(0).origins == one.batch(0).origins, named


def pooled_run(folder: Path, pooling: str, attention: str, **keys: Any) -> Path:
    path = write_run(folder, pair_steps=3, **keys)
    text = path.read_text(encoding="utf-8").replace("lexical_start = true\n", "")
    own = f'kind = "pair"\npooling = "{pooling}"\nattention = "{attention}"\nquantize = "none"'
    path.write_text(text.replace('kind = "pair"', own), encoding="utf-8")
    return path


@pytest.mark.parametrize(("pooling", "attention"), [("mask", "bidirectional"), ("last", "causal")])
def test_a_run_leaves_a_model_that_reads_as_it_was_trained(tmp_path: Path, pooling: Any, attention: str) -> None:
    lines: list[str] = []
    model = Path(run_recipe(pooled_run(tmp_path, pooling, attention), report=lines.append).model)
    config = read_model_config(model)
    assert (config.pooling, config.attention, config.normalize) == (pooling, attention, True)
    encoder = Encoder.load(model)
    assert encoder.runtime.name == ("torch" if attention == "causal" else "onnx")
    assert any("causal attention" in line for line in lines) == (attention == "causal")
    texts = ["an owl by the river", "42 stone light"]
    rows = [e.ids for e in encoder._tokenizer.encode_batch(texts, add_special_tokens=False)]
    rows = [[*ids, config.mask_token_id if pooling == "mask" else config.eot_token_id] for ids in rows]
    embedder = Embedder(load_backbone(model, attn_implementation=PACKED), pooling=pooling)
    with torch.no_grad():
        means = embedder(pack([TokenizedSequence(tuple(ids), ((0, len(ids)),)) for ids in rows])).numpy()
    units = means / np.linalg.norm(means, axis=1, keepdims=True)
    served = Encoder.load(model, runtime="torch").encode_documents(texts).values
    assert np.abs(units - served).max() < 1e-5


def test_a_run_counts_its_operations(tmp_path: Path) -> None:
    model = Path(run_recipe(write_run(tmp_path, pair_steps=3), report=lambda _: None).model)
    manifest = read_model_config(model).manifest
    chain = [*manifest["earlier"], manifest]
    weights = 32 * 16 * (2 + 1 + 1 + 2) * 2 + 3 * 32 * 48 * 2  # queries, keys, values, output; gate, up, down; 2 layers
    for stage in chain:
        training = stage["training"]
        assert training["flops"] > 6 * weights * training["tokens"]
        table = 6 * 32 * 300 if stage["stage"] != "pairs" else 0  # at most every token is predicted
        assert training["flops"] < (6 * weights * 1.3 + table) * training["tokens"]


def stage_weights(folder: Path, name: str) -> bytes:
    return (folder / "out" / name / "model" / "model.safetensors").read_bytes()


def test_time_that_is_over_stops_a_stage_which_then_goes_on(tmp_path: Path) -> None:
    whole, cut = (write_run(tmp_path / name) for name in ("whole", "cut"))
    recipe = read_recipe(whole)
    run_stages(recipe, whole.parent, ["base"], command="c", report=lambda _: None)
    for done in range(1, 5):
        if done == 4:
            run_stages(recipe, cut.parent, ["base"], command="c", report=lambda _: None)
            break
        with pytest.raises(UnfinishedError, match=f"after step {done} of 4 of stage 'base'"):  # a step is always made
            run_stages(recipe, cut.parent, ["base"], command="c", until=time.monotonic(), report=lambda _: None)
    assert stage_weights(whole.parent, "base") == stage_weights(cut.parent, "base")
    assert not (cut.parent / "out" / "diffusion").exists(), "only the stages that were asked for"
    facts = [read_model_config(p.parent / "out" / "base" / "model").manifest for p in (whole, cut)]
    assert facts[0]["command"] == "c"
    assert [f["training"]["tokens"] for f in facts] == [facts[0]["training"]["tokens"]] * 2
    assert facts[1]["training"]["flops"] == pytest.approx(facts[0]["training"]["flops"])
    rows = [json.loads(x) for x in (cut.parent / "out" / "base" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3]


def refused(recipe: Recipe, stage: StageConfig) -> str:
    stages = tuple(stage if s.name == stage.name else s for s in recipe.stage)
    with pytest.raises(RecipeError) as caught:
        check_recipe(dataclasses.replace(recipe, stage=stages), "r.toml")
    return str(caught.value)


def test_what_no_stage_can_mean(tmp_path: Path) -> None:
    recipe = read_recipe(write_run(tmp_path))
    stages = {stage.name: stage for stage in recipe.stage}
    pair = dataclasses.replace(stages["pairs"], pooling="last")
    assert 'lexical_start, a bag of words that only its mean can show, and pooling = "last"' in refused(recipe, pair)
    causal = dataclasses.replace(stages["diffusion"], attention="causal")
    assert "attention is for pair and contextual and triplet stages" in refused(recipe, causal)
    sources = (dataclasses.replace(pair.source[0], query_tokens=1),)
    mask = dataclasses.replace(pair, pooling="mask", lexical_start=False, source=sources)
    assert "query_tokens and document_tokens must be at least 2" in refused(recipe, mask)
