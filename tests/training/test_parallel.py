"""Several processes: the same losses and gradients as one, with whole copies (DDP) and with shards (FSDP2).

One ``torchrun`` of two gloo processes on the loopback does all that needs two (``parallel_worker.py``); what one
process must give in their place is run here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tests.conftest import EOT, MASK, PAD, make_tokenizer
from tests.data.corpora import write_examples
from tests.training.conftest import write_run
from tests.training.contrastive_rows import grouped
from tests.training.parallel_worker import COUNTS, run
from transformers import LlamaConfig, LlamaForCausalLM

from diffembed.objectives.denoising import masked_diffusion
from diffembed.text.batching import TokenizedSequence, pack
from diffembed.training.share import deal

pytestmark = pytest.mark.slow

STOP = 3  # diffusion steps after which a run is told to stop; it stops one later
MODES = {"ddp": "ddp", "fsdp2": "fsdp2", "lora": "fsdp2"}
CLOSE = 1e-4  # AdamW divides by a gradient's own size: where that is next to nothing, rounding moves a weight
LORA = "gradient_checkpointing = true\nlora_rank = 4\n"
ALIGNED = {"aligned-ddp": "ddp", "aligned-fsdp2": "fsdp2"}  # from a checkpoint with a head of its own
CONTRASTIVE = {"contrastive-ddp": "ddp", "contrastive-fsdp2": "fsdp2"}  # likewise
STAGES = """
[[stage]]
name = "pair"
quantize = "none"
kind = "pair"
steps = 4
batch = 12
memory_tokens = 0
{usual}
[[stage.source]]
name = "judged"
kind = "pairs"
paths = ["set"]
[[stage.source]]
name = "spans"
kind = "spans"
paths = ["texts.jsonl"]
query_tokens = 8
document_tokens = 24
[[stage]]
name = "pair-int8"
kind = "pair"
parent = "[model]"
steps = 3
batch = 12
{usual}
[[stage.source]]
name = "judged"
kind = "pairs"
paths = ["set"]
symmetric = true
[[stage]]
name = "contextual"
quantize = "none"
kind = "contextual"
steps = 3
batch = 5
memory_tokens = 0
{usual}
[[stage.source]]
name = "groups"
kind = "rows"
paths = ["groups.jsonl"]
document_tokens = 80
[[stage]]
name = "contextual-lora"
quantize = "none"
kind = "contextual"
parent = "pair"
gold = false
steps = 3
batch = 5
lora_rank = 4
{usual}
[[stage.source]]
name = "groups"
kind = "rows"
paths = ["groups.jsonl"]
document_tokens = 80
chunk_tokens = [4, 12]
[[stage]]
name = "triplet"
quantize = "none"
kind = "triplet"
parent = "pair"
steps = 3
batch = 7
memory_tokens = 0
gradient_checkpointing = true
{usual}
[stage.mine]
negatives = 2
relative_margin = 0.0
[[stage.source]]
name = "judged"
kind = "pairs"
paths = ["set"]
[[stage]]
name = "triplet-int8"
kind = "triplet"
parent = "pair"
steps = 3
batch = 1
{usual}
[stage.mine]
negatives = 2
relative_margin = 0.0
[[stage.source]]
name = "judged"
kind = "pairs"
paths = ["set"]
in_batch = false
[[stage]]
name = "merged"
kind = "merge"
parents = ["contextual", "triplet"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``stopped``, ``one``: one process, before and after its end. MODE: two processes, stopped; MODE-back: ``stopped``
    brought to its end by two. ``aligned-one``, ``aligned-MODE``: to the end, from an untied head, held to the parent.
    """
    root = tmp_path_factory.mktemp("parallel")
    text = write_run(root, save_seconds=0).read_text(encoding="utf-8").replace('sets = ["set"]', "sets = []")
    head, _, diffusion, pairs = text.split("[[stage]]\n")
    text = f"{head}[[stage]]\n{diffusion}{pairs[pairs.index('[score]') :]}"
    text = text.replace("threads = 1", "threads = 1\nkeep = 99").replace("vocab_size = 300", "vocab_size = 301")
    text = text.replace("sequence_tokens = 32", "sequence_tokens = 32\nmicro_tokens = 80\nclip = 100.0")

    def write(name: str, mode: str) -> None:
        recipe = text.replace('output = "out"', f'output = "{name}"\nparallel = "{MODES.get(mode, "ddp")}"')
        if mode == "lora":
            recipe = recipe.replace('kind = "diffusion"', f'kind = "diffusion"\n{LORA}')
        (root / f"{name}.toml").write_text(recipe, encoding="utf-8")

    write("one", "one")
    assert "after step 4" in run(root / "one.toml", STOP)
    shutil.copytree(root / "one", root / "stopped")
    write("lora-one", "lora")
    assert run(root / "lora-one.toml", 0) == "complete"
    for mode in MODES:
        write(mode, mode)
        if mode != "lora":
            write(f"{mode}-back", mode)
            shutil.copytree(root / "one", root / f"{mode}-back")
    for name, parallel in {"aligned-one": "ddp", **ALIGNED}.items():
        recipe = text[: text.index("[tokenizer]")] + f'[model]\ncheckpoint = "llama"\nmask_token = "{MASK}"\n'
        recipe += text[text.index("[[stage]]\n") :].replace("steps = 6", "steps = 3")
        recipe = recipe.replace('output = "out"', f'output = "{name}"\nparallel = "{parallel}"')
        keys = 'kind = "diffusion"\nalignment_weight = 0.5\ngradient_checkpointing = true'
        (root / f"{name}.toml").write_text(recipe.replace('kind = "diffusion"', keys), encoding="utf-8")
    write_llama(root / "llama")
    assert run(root / "aligned-one.toml", 0) == "complete"
    write_examples(root / "data" / "groups.jsonl", grouped(23))
    for name, parallel in {"contrastive-one": "ddp", **CONTRASTIVE}.items():
        stages = STAGES.format(usual="lr = 1e-2\nwarmup = 2\nmicro_tokens = 80\nclip = 100.0")
        recipe = text[: text.index("[tokenizer]")] + f'[model]\ncheckpoint = "llama"\nmask_token = "{MASK}"\n{stages}'
        recipe = recipe.replace('output = "out"', f'output = "{name}"\nparallel = "{parallel}"')
        (root / f"{name}.toml").write_text(recipe, encoding="utf-8")
    assert run(root / "contrastive-one.toml", 0) == "complete"
    recipes = [f"{root}/{m}.toml" + ("" if m == "lora" else f":{STOP}") for m in MODES]
    recipes += [f"{root}/{m}.toml" for m in (*ALIGNED, *CONTRASTIVE)]
    recipes += [f"{root}/{m}-back.toml" for m in MODES if m != "lora"]
    worker = Path(__file__).with_name("parallel_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(worker)]
    repo = worker.parents[2]
    ran = subprocess.run(
        [*command, *recipes, str(root)],
        env={
            **os.environ,
            "PYTHONPATH": f"{repo / 'src'}{os.pathsep}{repo}",
            "PYTHONFAULTHANDLER": "1",  # an abort in torch's threads says where each thread was
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert ran.returncode == 0, ran.stderr
    run(root / "one.toml", 0)  # to the end
    return root


def write_llama(folder: Path) -> None:
    """A causal checkpoint whose head is not its token table."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=96, bos_token_id=None,
        pad_token_id=tokenizer.token_to_id(PAD), eos_token_id=tokenizer.token_to_id(EOT), tie_word_embeddings=False,
        initializer_range=0.1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


def log(folder: Path, stage: str = "diffusion") -> list[dict[str, float]]:
    return [json.loads(x) for x in (folder / stage / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def differences(a: Path, b: Path) -> float:
    x, y = load_file(a), load_file(b)
    assert x.keys() == y.keys() and {k: v.shape for k, v in x.items()} == {k: v.shape for k, v in y.items()}
    return max(float(np.abs(x[k] - y[k]).max()) for k in x)


@pytest.mark.parametrize("mode", ["ddp", "fsdp2"])
def test_two_processes_give_the_loss_and_gradients_of_one(mode: str, folder: Path) -> None:
    one, two = log(folder / "stopped"), log(folder / mode)
    assert len(one) == len(two) == STOP + 1
    for a, b in zip(one, two, strict=True):
        assert (a["step"], a["tokens"], a["source"]) == (b["step"], b["tokens"], b["source"])
        assert abs(a["loss"] - b["loss"]) < 1e-6 * max(1.0, a["loss"])
        assert abs(a["grad_norm"] - b["grad_norm"]) < 1e-6 * max(1.0, a["grad_norm"])
    # After the first step the first moment is (1 - 0.9) times the gradient, so it shows every element of that.
    first = "diffusion/state/step-00000001/exp_avg.safetensors"
    largest = max(float(np.abs(v).max()) for v in load_file(folder / mode / first).values())
    assert largest > 1e-3
    assert differences(folder / "stopped" / first, folder / mode / first) < 0.1 * 1e-6


@pytest.mark.parametrize("mode", ["ddp", "fsdp2"])
def test_sigterm_to_one_process_stops_all_with_a_whole_checkpoint(mode: str, folder: Path) -> None:
    said = (folder / f"{mode}.outcome").read_text(encoding="utf-8")  # of the process that got no signal
    assert said.startswith("stopped by SIGTERM after step 4 of 6 of stage 'diffusion'; its checkpoint is written")
    assert sorted(p.name for p in (folder / mode / "diffusion" / "state").iterdir())[-1] == "step-00000004"


@pytest.mark.parametrize("mode", ["ddp", "fsdp2"])
def test_a_run_of_two_goes_on_as_one_and_back(mode: str, folder: Path) -> None:
    assert (folder / f"{mode}-back.outcome").read_text(encoding="utf-8") == "complete"
    assert run(folder / f"{mode}.toml", 0) == "complete"  # two processes began it, this one ends it
    for name in (mode, f"{mode}-back"):
        assert [r["step"] for r in log(folder / name)] == list(range(6)), name
        for a, b in zip(log(folder / "one"), log(folder / name), strict=True):
            assert abs(a["loss"] - b["loss"]) < 1e-5, name
        weights = Path("diffusion") / "model" / "model.safetensors"
        assert differences(folder / "one" / weights, folder / name / weights) < CLOSE, name


def test_adapters_and_recomputed_activations_over_shards(folder: Path) -> None:
    for a, b in zip(log(folder / "lora-one"), log(folder / "lora"), strict=True):
        assert abs(a["loss"] - b["loss"]) < 1e-5
    weights = Path("diffusion") / "model" / "model.safetensors"
    assert differences(folder / "lora-one" / weights, folder / "lora" / weights) < CLOSE


@pytest.mark.parametrize("mode", ALIGNED)
def test_an_untied_head_held_to_the_parent(mode: str, folder: Path) -> None:
    one, two = log(folder / "aligned-one"), log(folder / mode)
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        for key in ("loss", "grad_norm"):
            assert abs(a[key] - b[key]) < 1e-6 * max(1.0, a[key]), (key, a["step"])
    for file in ("model.safetensors", "head.safetensors"):
        name = Path("diffusion") / "model" / file
        assert differences(folder / "aligned-one" / name, folder / mode / name) < CLOSE


def test_fsdp2_shards_layer_by_layer(folder: Path) -> None:
    """One group of the whole model would gather all of it at once, on every process."""
    groups = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in folder.glob("*.groups")}
    layers = ["", "embedder.backbone.layers.0", "embedder.backbone.layers.1"]
    sharded = {"fsdp2", "fsdp2-back", "lora", "aligned-fsdp2", "contrastive-fsdp2"}
    assert groups == {name: layers if name in sharded else [] for name in groups} and sharded < set(groups)


def test_rows_of_two_processes(folder: Path) -> None:
    rows = np.arange(sum(COUNTS) * 2, dtype=np.float32).reshape(-1, 2)
    for rank, own in enumerate(np.split(rows, np.cumsum(COUNTS)[:-1])):
        found = json.loads((folder / f"gathered-{rank}.json").read_text(encoding="utf-8"))
        assert found == {"values": rows.tolist(), "gradient": (2 * own * (1 + 2)).tolist()}


NAMES = ["pair", "pair-int8", "contextual", "contextual-lora", "triplet", "triplet-int8"]


@pytest.mark.parametrize("mode", CONTRASTIVE)
@pytest.mark.parametrize("stage", NAMES)
def test_contrastive_stages(stage: str, mode: str, folder: Path) -> None:
    """Read twice and read once, of pairs, documents and triplets: the same steps as by one process."""
    one, two = log(folder / "contrastive-one", stage), log(folder / mode, stage)
    assert len(one) == len(two) >= 3
    rounded = stage.endswith("int8")  # where sums in another order change a vector in its last bit, it may round apart
    for a, b in zip(one, two, strict=True):
        assert all(a[key] == b[key] for key in ("step", "tokens", "source", "queries"))
        for key in ("loss", "grad_norm"):
            assert b[key] == pytest.approx(a[key], rel=1e-2 if rounded else 1e-4), (key, a["step"])
    model = Path(stage) / "model" / "model.safetensors"
    assert differences(folder / "contrastive-one" / model, folder / mode / model) < (1e-2 if rounded else CLOSE)


@pytest.mark.parametrize("mode", CONTRASTIVE)
def test_the_first_process_mines_for_all(mode: str, folder: Path) -> None:
    mined = json.loads((folder / f"{mode}.mined-0").read_text(encoding="utf-8"))
    assert [Path(path).parents[1].name for path in mined] == ["triplet", "triplet-int8"]
    assert not (folder / f"{mode}.mined-1").exists()


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_dealing_loses_nothing(world: int) -> None:
    rng = np.random.default_rng(0)
    clean = [tuple(rng.integers(3, 90, n).tolist()) for n in (1, 9, 4, 30, 7, 7, 2, 18)]
    planned = [
        masked_diffusion(pack([TokenizedSequence(s, ((0, len(s)),)) for s in clean[i : i + 3]]), rng, mask_token_id=2)
        for i in (0, 3, 6)
    ]
    dealt = [deal(planned, rank=r, world=world, micro_tokens=20) for r in range(world)]
    assert len({len(own) for own in dealt}) == 1, "sharded models run in step"

    def triples(targets: list[object]) -> list[tuple[object, ...]]:
        """(clean sequence, what is read of it, position, target, weight) of all targets."""
        found = []
        for t in targets:
            for start, end in zip(t.batch.cu_seqlens[:-1], t.batch.cu_seqlens[1:], strict=True):  # type: ignore[attr-defined]
                for row, target, weight in zip(t.rows, t.target_ids, t.weights, strict=True):  # type: ignore[attr-defined]
                    if start <= row < end and weight:
                        ids = (t.clean_ids[start:end], t.batch.token_ids[start:end])  # type: ignore[attr-defined]
                        found.append((*(tuple(x.tolist()) for x in ids), int(row - start), int(target), float(weight)))
        return sorted(found)

    everything = triples(list(planned))
    assert len(everything) > 10
    assert triples([t for own in dealt for t in own]) == everything
    assert all(len(t.rows) for own in dealt for t in own), "every pass has a gradient for every weight"
    assert sum(len(t.aligned) for own in dealt for t in own) == sum(t.eligible for t in planned)
