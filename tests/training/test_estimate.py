"""Dry runs: counted parameters against independent counts, memory formulas against measured steps, and every stage."""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.cli.invoke import run
from tests.models.tiny import tiny_config, tiny_model
from tests.training.tiny import STAGE, stepped, tiny_embedder, tiny_machine
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen2Config, Qwen2ForCausalLM

from diffembed.errors import ModelError, RecipeError
from diffembed.models.attention import PACKED
from diffembed.models.backbone import set_causal
from diffembed.models.embedder import Embedder
from diffembed.objectives.denoising import masked_diffusion
from diffembed.text.batching import PackedBatch, TokenizedSequence, pack
from diffembed.training import estimate_memory, grad_cache
from diffembed.training.adapters import add_adapters
from diffembed.training.configs import SourceConfig, StageConfig
from diffembed.training.contrastive import BatchLoss
from diffembed.training.contrastive_batch import from_tokens
from diffembed.training.estimate import estimate_recipe, meta_model
from diffembed.training.estimate_memory import stage_memory, vector_bytes
from diffembed.training.estimate_report import RecipeEstimate
from diffembed.training.estimate_tables import GPUS
from diffembed.training.grad_cache import contrastive_parts
from diffembed.training.lm import lm_losses
from diffembed.training.loop import recompute_activations
from diffembed.training.recipe import read_recipe
from diffembed.training.share import deal_spans
from diffembed.training.state import save_state
from diffembed.training.throughput import step_cost

RUNS = Path(__file__).resolve().parents[2] / "runs"
PPLX, DREAM = RUNS / "pplx-embed-0.6b.toml", RUNS / "diffembed-dream.toml"
QWEN_TOTAL, QWEN_TABLE = 596_049_920, 151_936 * 1024  # counted by others: ../shared/reference/pplx-embed.md, section 2
DREAM_TABLE = 152_064 * 3584


@pytest.fixture(scope="module")
def pplx() -> RecipeEstimate:
    return estimate_recipe(PPLX)


@pytest.fixture(scope="module")
def dream() -> RecipeEstimate:
    return estimate_recipe(DREAM)


# --- the published recipes ------------------------------------------------------------------------------------------


def test_pplx_embed_is_as_published() -> None:
    recipe = read_recipe(PPLX)
    stages = {s.name: s for s in recipe.stage}
    assert [s.kind for s in recipe.stage] == ["diffusion", "pair", "pair", "pair", "contextual", "triplet", "merge"]
    diffusion = stages["diffusion"]
    assert (diffusion.steps, diffusion.batch, diffusion.sequence_tokens) == (60_000, 1024 * 4096, 4096)
    assert (diffusion.lr, diffusion.truncate_share, len(diffusion.source[1].languages)) == (5e-4, 0.01, 29)
    assert diffusion.source[0].weight == diffusion.source[1].weight
    pairs = [s for s in recipe.stage if s.kind == "pair"]
    assert sum(s.steps for s in pairs) == 50_000
    assert {(s.batch, s.temperature, s.lr, s.mask_margin, s.asks_queries) for s in pairs} == {
        (16_384, 0.02, 2e-4, 0.1, True)
    }
    assert sum(source.weight for source in pairs[-1].source) == pytest.approx(100.0)
    assert (stages["contextual"].alpha, stages["contextual"].beta) == (0.2, (0.2, 0.5))
    assert recipe.parents_of(stages["contextual"]) == recipe.parents_of(stages["triplet"]) == (pairs[-1],)
    assert recipe.parents_of(stages["merged"]) == (stages["contextual"], stages["triplet"])


def test_diffembed_is_as_published() -> None:
    recipe = read_recipe(DREAM)
    found = {s.name: (s.steps, s.batch, s.lora_rank, s.lora_alpha, s.negatives) for s in recipe.stage}
    assert found == {"e5": (1000, 16, 16, 32, 1), "reasonaug": (680, 16, 16, 32, 1), "followir": (125, 128, 32, 64, 15)}
    assert {(s.lr, s.lora_dropout, s.quantize, len(s.lora_targets)) for s in recipe.stage} == {(1e-4, 0.05, "none", 7)}
    assert [recipe.parents_of(s) for s in recipe.stage] == [(), (), ()]  # each tunes the checkpoint itself
    followir = recipe.stage[2]
    assert (followir.similarity, followir.temperature, followir.source[0].in_batch) == ("dot", 3584.0, False)
    assert {s.instruction_format for stage in recipe.stage for s in stage.source} == {"{instruction}; {query}"}


@pytest.mark.parametrize("path", [PPLX, DREAM], ids=lambda p: p.name)
def test_every_value_says_where_it_is_from(path: Path) -> None:
    free = {"name", "kind", "output", "data_root", "paths", "questions", "fp32_onnx"}
    silent = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        key = re.match(r"(\w+) =", line)
        language = re.fullmatch(r"[a-z]{3} = 1", line)  # the table of languages has one comment
        if (
            key
            and key[1] not in free
            and not language
            and not re.search(r"# .*(\[paper|\[code|\[model card|unpub)", line)
        ):
            silent.append(f"{number}: {line}")
    assert silent == []


def test_a_stage_may_begin_where_the_recipe_does(recipe_path: Path) -> None:
    text = recipe_path.read_text(encoding="utf-8")
    recipe_path.write_text(text.replace('kind = "pair"', 'kind = "pair"\nparent = "[model]"'), encoding="utf-8")
    recipe = read_recipe(recipe_path)
    assert [recipe.parent_of(s) for s in recipe.stage] == [None, recipe.stage[0], None]


# --- parameters, tokens, operations ---------------------------------------------------------------------------------


def test_parameters_of_qwen3(pplx: RecipeEstimate) -> None:
    found = pplx.parameters
    assert (found.total, found.embedding, found.head) == (QWEN_TOTAL, QWEN_TABLE, 0)


def test_parameters_of_dream_are_those_of_a_stock_qwen2(dream: RecipeEstimate) -> None:
    """The published count of Qwen2.5-7B, whose shape it is, and that of a model which transformers builds."""
    config = Qwen2Config(
        vocab_size=152_064,
        hidden_size=3584,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        intermediate_size=18_944,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        stock = sum(p.numel() for p in Qwen2ForCausalLM(config).parameters())
    assert dream.parameters.total == stock == 7_615_616_512
    assert dream.parameters.embedding == dream.parameters.head == DREAM_TABLE
    ends = [(3584, 3584), (3584, 512), (3584, 512), (3584, 3584), *[(3584, 18_944)] * 2, (18_944, 3584)]
    adapters = 28 * sum(sum(end) for end in ends)
    assert [s.trainable for s in dream.stages] == [16 * adapters, 16 * adapters, 32 * adapters]


def test_every_stage_is_listed_with_its_tokens(pplx: RecipeEstimate) -> None:
    found = {s.name: s for s in pplx.stages}
    assert list(found) == [s.name for s in read_recipe(PPLX).stage]
    assert (found["diffusion"].tokens, found["diffusion"].exact) == (60_000 * 1024 * 4096, True)
    assert (found["pairs-english"].tokens_per_step, found["pairs-english"].exact) == (16_384 * (64 + 256), False)
    assert found["contextual"].tokens_per_step == 128 * (2 * 64 + 4096)
    assert found["triplet"].tokens_per_step == 1024 * (64 + 8 * 256)
    assert (found["merged"].steps, found["merged"].tokens, found["merged"].memory.ddp) == (0, 0, 0.0)
    assert found["diffusion"].trainable == QWEN_TOTAL
    assert found["diffusion"].checkpoint_bytes == 12 * QWEN_TOTAL
    assert found["diffusion"].disk_bytes == (3 * 12 + 4) * QWEN_TOTAL  # keep = 2, one that is written, the model
    assert found["merged"].disk_bytes == 4 * QWEN_TOTAL


def test_operations_of_pretraining_by_hand(pplx: RecipeEstimate) -> None:
    stage = pplx.stages[0]
    linear = QWEN_TOTAL - QWEN_TABLE
    attention = 12 * 28 * 16 * 128 * 4096  # a token and 4,096 others, in 28 layers of 16 heads of 128
    by_hand = stage.tokens * (6 * linear + attention + 0.5 * 6 * QWEN_TABLE)  # half of the tokens are predicted
    assert stage.flops == pytest.approx(by_hand, rel=1e-3)
    h100 = next(g for g in stage.gpus if g.gpu == "H100")
    assert h100.hours == pytest.approx(by_hand / (0.4 * 989.4e12) / 3600, rel=1e-3)
    assert stage.repeated == 0.0


def test_what_is_read_twice_counts_in_the_hours(dream: RecipeEstimate) -> None:
    found = dream.stages[0]  # checkpointing and GradCache: two more passes forward of frozen weights
    assert found.repeated == pytest.approx(2 * found.flops * 2 / 4, rel=0.1)
    h100 = next(g for g in found.gpus if g.gpu == "H100")
    assert h100.hours == pytest.approx((found.flops + found.repeated) / (0.4 * 989.4e12) / 3600)


def test_a_model_of_shapes_costs_what_a_real_one_does(recipe_path: Path) -> None:
    shapes, _ = meta_model(read_recipe(recipe_path), recipe_path.parent)
    assert {p.device.type for p in shapes.parameters()} == {"meta"}
    real, forward = tiny_embedder(), step_cost(tiny_embedder(), causal=False, backward=False)
    with torch.device("meta"):
        same = tiny_embedder()
    assert step_cost(same, causal=True) == step_cost(real, causal=True)
    lengths, whole = np.array([7, 5]), step_cost(real, causal=False)
    assert forward.of(lengths, 3) == pytest.approx(whole.of(lengths, 3) / 3)


# --- memory: formulas against what a step really holds --------------------------------------------------------------


class Live(TorchDispatchMode):
    """Bytes of all tensors that operations made and somebody still holds: the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and (size := tensor.untyped_storage().nbytes()):
                storage = tensor.untyped_storage()
                if (key := storage._cdata) not in self._known:
                    self._known.add(key)
                    self._now += size
                    self.peak = max(self.peak, self._now)
                    weakref.finalize(storage, self._freed, key, size)
        return out

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


def embedder_of(family: str, stage: StageConfig) -> Embedder:
    wider = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4, "max_position_embeddings": 1024}
    if family == "gemma3":
        wider |= {"layer_types": None, "sliding_window": 2048}
    model = tiny_model(tiny_config(family, **wider))
    model.set_attn_implementation(PACKED)
    set_causal(model, False)
    embedder = Embedder(model)
    if stage.lora_rank:
        add_adapters(embedder, stage, 0)
    if stage.gradient_checkpointing:
        recompute_activations(model, True)
    return embedder.train()


def two_texts(length: int = 528) -> PackedBatch:
    """Long enough for the fused kernel, whose memory is that of the GPU's: below, a CPU takes plain products."""
    rng = np.random.default_rng(0)
    return pack([TokenizedSequence(tuple(rng.integers(3, 60, length).tolist()), ((0, length),)) for _ in range(2)])


def peak_of(work: Callable[[], torch.Tensor], *, half: bool) -> int:
    context = torch.autocast("cpu", torch.bfloat16) if half else nullcontext()
    with Live() as live, context:
        work().backward()  # type: ignore[no-untyped-call]
    return live.peak


WAYS = [("qwen3", again, rank, half) for again in (False, True) for rank in (0, 8) for half in (False, True)]
WAYS += [(family, again, rank, True) for family in ("qwen2", "gemma3") for again, rank in ((False, 0), (True, 8))]


@pytest.mark.parametrize(("family", "again", "rank", "half"), WAYS)
def test_memory_of_a_pass(family: str, again: bool, rank: int, half: bool) -> None:
    """A forward and a backward pass: between 0.9 and 1.4 times what was measured (again: checkpointed; rank 0: all)."""
    stage = StageConfig("s", "pair", steps=1, batch=1, lr=1.0, lora_rank=rank, gradient_checkpointing=again)
    embedder, batch = embedder_of(family, stage), two_texts()
    found = stage_memory(embedder, stage, tokens=batch.tokens, half=half)
    peak = peak_of(lambda: embedder(batch).sum(), half=half)
    assert 0.9 < (found.activations + found.casts + found.gradients) / peak < 1.4


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_memory_of_a_language_model_step(half: bool) -> None:
    stage = StageConfig("s", "diffusion", steps=1, batch=1, lr=1.0)
    embedder, batch = embedder_of("qwen3", stage), two_texts()
    targets = masked_diffusion(batch, np.random.default_rng(0), mask_token_id=1)
    found = stage_memory(embedder, stage, tokens=batch.tokens, half=half)
    peak = peak_of(lambda: next(lm_losses(embedder, [targets], eligible_total=1.0)), half=half)
    assert 0.9 < (found.activations + found.casts + found.gradients + found.loss) / peak < 1.4


@pytest.mark.parametrize(
    ("widths", "block"),
    [((64,), 10**9), ((16, 32, 64), 10**9), ((16, 32, 64), 100_000)],
    ids=["one", "three", "blocks"],
)
def test_memory_of_vectors(widths: tuple[int, ...], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss over a step's vectors, whose means are given: between 0.85 and 1.6 times what was measured."""
    monkeypatch.setattr(grad_cache, "BLOCK_ELEMENTS", block)
    monkeypatch.setattr(estimate_memory, "BLOCK_ELEMENTS", block)
    rng, source = np.random.default_rng(0), SourceConfig("texts", ())
    stage = StageConfig("s", "pair", steps=1, batch=500, lr=1.0, source=(source,))
    texts = [[int(t) for t in rng.integers(3, 500, 4)] for _ in range(1000)]
    batch = from_tokens(texts[:500], texts[500:], source, origins=[], cut=0)
    means = torch.randn(len(batch.sequences), 64, requires_grad=True)
    with Live() as live:
        loss = BatchLoss.of(batch, stage, widths, progress=0.0, device=torch.device("cpu"))
        share = deal_spans(batch.sequences, batch.queries, 0, 1, 8192)
        columns = len(batch.sequences) + len(batch.chunk_ids)
        (part,) = contrastive_parts(share, loss, keep=True, columns=columns)
        part(lambda _: means)  # type: ignore[arg-type]
    estimated = vector_bytes(batch.queries, len(batch.sequences), 64, widths)
    assert 0.85 < estimated / live.peak < 1.6


def test_a_checkpoint_is_as_large_as_said(tmp_path: Path) -> None:
    embedder, machine = tiny_embedder(vocab_size=400), tiny_machine()
    save_state(tmp_path, embedder, stepped(embedder), 1, {}, keep=1, machine=machine)
    size = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    trainable = sum(p.numel() for p in estimate_memory.learned(embedder, STAGE))
    assert size == pytest.approx(12 * trainable, abs=20_000)  # headers, and AdamW's counts of steps


def test_gpus_that_the_memory_needs(dream: RecipeEstimate) -> None:
    found = {g.gpu: g for g in dream.gpus}
    assert [g.name for g in GPUS] == list(found)
    assert found["H100"].ddp and found["H100"].fsdp2 == 1
    assert not found["L40S"].ddp and found["L40S"].fsdp2 == 2
    memory, l40s = dream.stages[0].memory, next(g for g in GPUS if g.name == "L40S")
    assert memory.fsdp2(2) <= l40s.budget < memory.fsdp2(1)


# --- the command line, checkpoints, mistakes ------------------------------------------------------------------------


def test_a_dry_run_prints_every_stage_and_writes_nothing() -> None:
    shown = run("train", PPLX, "--dry-run")
    assert shown.code == 0, shown.stderr
    for stage in read_recipe(PPLX).stage:
        assert shown.stdout.count(f"\n{stage.name} ") == 3
    assert "596,049,920 parameters" in shown.stdout and "published config" in shown.stdout
    assert not (PPLX.parent / "../out/pplx-embed-0.6b").exists()


def test_a_dry_run_as_json() -> None:
    found = run("pretrain", PPLX, "--dry-run", "--json").json
    assert [s["name"] for s in found["stages"]] == ["diffusion"]
    assert found["parameters"] == {"total": QWEN_TOTAL, "embedding": QWEN_TABLE, "head": 0}
    stage = found["stages"][0]
    parts = ("weights", "gradients", "moments", "casts", "activations", "loss")
    assert stage["memory"]["ddp"] == pytest.approx(sum(stage["memory"][name] for name in parts))
    assert [g["gpu"] for g in stage["gpus"]] == [g.name for g in GPUS]
    assert found["assumed"] == {"mfu": 0.4, "usable_memory": 0.9}


def test_a_recipe_with_a_shape_of_its_own(recipe_path: Path) -> None:
    found = estimate_recipe(recipe_path)
    assert found.parameters.embedding == 300 * 32
    assert [g.hours for g in found.gpus] == [None] * len(GPUS)  # its precision is float32
    assert found.stages[2].tokens_per_step == 24 * (64 + 128 + 8 + 24) // 2  # by turns; it reads 128


CONVERTED = """
[run]
name = "x"
output = "out"
data_root = "data"
[model]
checkpoint = "{checkpoint}"
[[stage]]
name = "diffusion"
kind = "diffusion"
steps = 2
batch = 64
lr = 1e-3
sequence_tokens = {length}
{more}
[[stage.source]]
name = "texts"
paths = ["texts.jsonl"]
"""


def converted(folder: Path, checkpoint: str, *, length: int = 32, more: str = "") -> Path:
    path = folder / "recipe.toml"
    path.write_text(CONVERTED.format(checkpoint=checkpoint, length=length, more=more), encoding="utf-8")
    return path


def test_a_directory_with_a_config_is_enough(tmp_path: Path) -> None:
    (tmp_path / "shape").mkdir()
    config = tiny_config("llama", tie_word_embeddings=False)
    (tmp_path / "shape" / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    found = estimate_recipe(converted(tmp_path, "shape", more="alignment_weight = 0.5"))
    own = sum(p.numel() for p in tiny_model(config).parameters())
    assert found.parameters.head == 60 * 32 and found.parameters.total == own + 60 * 32
    without = estimate_recipe(converted(tmp_path, "shape")).stages[0]
    assert found.stages[0].memory.loss == without.memory.loss + 4 * own
    layers = 2 * sum(p.numel() for n, p in tiny_model(config).named_parameters() if p.ndim == 2 and "embed" not in n)
    read = found.stages[0].flops - without.flops  # what the frozen parent reads, forward alone
    tokens = found.stages[0].tokens
    assert layers * tokens < read < 1.5 * layers * tokens
    with pytest.raises(RecipeError, match="sequence_tokens = 128; the model reads max_tokens 64"):
        estimate_recipe(converted(tmp_path, "shape", length=128))
    with pytest.raises(RecipeError, match="lora_targets 'wq', which is no linear layer"):
        estimate_recipe(converted(tmp_path, "shape", more='lora_rank = 4\nlora_targets = ["wq"]'))
    (tmp_path / "shape" / "config.json").write_text('{"model_type": "llama", "hidden_size": "x"}', encoding="utf-8")
    with pytest.raises(ModelError, match="copy it again"):
        estimate_recipe(converted(tmp_path, "shape"))


def test_an_unknown_hub_id_says_what_to_give(tmp_path: Path) -> None:
    run("train", converted(tmp_path, "nobody/has-this"), "--dry-run").fails(
        5, "nobody/has-this", "Put the checkpoint's config.json into a folder", "Qwen/Qwen3-0.6B-Base"
    )
