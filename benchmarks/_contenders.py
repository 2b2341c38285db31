"""The contenders of benchmarks/encode.py, each run in a process of its own that prints what it measured as JSON.

    python benchmarks/_contenders.py measure NAME TASK VECTORS STARTED   a contender over a task (below); see `measure`
    python benchmarks/_contenders.py gemm INNER COLUMNS                  the rate of fp32 matrix products
    python benchmarks/_contenders.py memory TEXTS FIRST                  largest resident size early and late in a file
    python benchmarks/_contenders.py stock SOURCE FOLDER MAX_TOKENS      ONNX files as onnxruntime's own tools make them
    python benchmarks/_contenders.py qwen FOLDER LAYERS                  random weights of Qwen3-0.6B, an int8 graph

A contender is a function that loads a model and gives another one, from texts to vectors: tokenizing, batching and
pooling are part of it. What it needs is imported inside, so that no contender pays for another's packages. Peers that
bring no loop of their own (torch, onnxruntime, OpenVINO) get the project's: tokens counted by `tokenizers`, batches of
one token budget sorted by length, padded to the longest of the batch.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Encode = Callable[[list[str]], Any]
Forward = Callable[[Any, Any], Any]  # ids and mask [B, T] -> states [B, T, D]
SPIN = "import time\nend = time.monotonic() + 600\nwhile time.monotonic() < end: pass"
QWEN3_06B: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": True,
    "is_causal": False,
}
QWEN_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Task:
    """One model, and what its contenders read.

    Attributes:
        source: the stock directory, for sentence-transformers and transformers.
        ours: a model directory of ours with an int8 graph; ``exact``: one with an fp32 graph (or weights alone).
        stock: folder of the files that ``stock`` made; empty where there are none.
        max_tokens: texts are cut at so many tokens.
        pad: id that fills padded places.
        texts, queries: what is timed; queries one by one.
        busy: how many of the texts are read again while another process keeps a core busy.
        warm: how many of the texts are read once before anything is timed.
    """

    source: str
    ours: str
    exact: str
    stock: str
    max_tokens: int
    pad: int
    texts: list[str]
    queries: list[str]
    busy: int = 0
    warm: int = 0


def main() -> None:
    command, *arguments = sys.argv[1:]
    known: dict[str, Callable[..., Any]] = {made.__name__: made for made in (measure, gemm, memory, stock, qwen)}
    print(json.dumps(known[command](*arguments)))


# ours


def ours(task: Task) -> Encode:
    return _encoder(task.ours, runtime="onnx", precision="int8")


def ours_fp32(task: Task) -> Encode:
    return _encoder(task.exact, runtime="onnx", precision="fp32")


def ours_torch(task: Task) -> Encode:
    """torch in fp32, packed whatever the family (``Encoder.load`` runs a BERT padded)."""
    from diffembed import Encoder
    from diffembed.models.checkpoint import read_model_config
    from diffembed.runtime.torch import TorchRuntime

    path = Path(task.exact)
    config = read_model_config(path)
    runtime = TorchRuntime(path, device="cpu", pad_token_id=config.pad_token_id, packed=True)
    encoder = Encoder(path.name, path, config, runtime)
    return lambda texts: encoder.encode_documents(texts, truncate=True).values


def ours_bf16(task: Task) -> Encode:
    """torch in bfloat16, packed."""
    return _encoder(task.exact, runtime="torch", precision="bf16", device="cpu")


def _encoder(path: str, **options: Any) -> Encode:
    from diffembed import Encoder

    encoder = Encoder.load(path, **options)
    return lambda texts: encoder.encode_documents(texts, truncate=True).values


# peers


def peer(task: Task) -> Encode:
    """sentence-transformers as it comes: fp32, 32 texts a batch, which it sorts by characters itself."""
    model = _sentence_transformer(task)
    return lambda texts: model.encode(texts)


def peer_sorted(task: Task) -> Encode:
    """sentence-transformers with batches of our token budget, sorted by tokens."""
    model, tokenize = _sentence_transformer(task), _tokenizer(task)

    def encode(texts: list[str]) -> Any:
        lengths = [len(ids) for ids in tokenize(texts)]
        return _in_batches(lengths, lambda group: model.encode([texts[i] for i in group], batch_size=len(group)))

    return encode


def _sentence_transformer(task: Task) -> Any:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(task.source, device="cpu")
    model.max_seq_length = task.max_tokens
    return model


def torch_sdpa(task: Task) -> Encode:
    """A stock transformers model on torch's fused attention, padded."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(task.source, attn_implementation="sdpa", dtype=torch.float32).eval()

    def forward(ids: Any, mask: Any) -> Any:
        with torch.inference_mode():
            inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            return model(**inputs).last_hidden_state.numpy()

    return _padded(task, forward)


def ort_fp32(task: Task) -> Encode:
    """onnxruntime on torch's export, fused by onnxruntime's own optimizer."""
    return _padded(task, _session(f"{task.stock}/model.onnx"))


def ort_int8(task: Task) -> Encode:
    """The same after onnxruntime's ``quantize_dynamic``, one scale a channel."""
    return _padded(task, _session(f"{task.stock}/int8.onnx"))


def _session(file: str) -> Forward:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0]


def openvino(task: Task) -> Encode:
    """OpenVINO as it comes on torch's fp32 export (where a processor has bfloat16 it computes in that)."""
    from openvino import Core

    model = Core().compile_model(f"{task.stock}/plain.onnx", "CPU")
    return _padded(task, lambda ids, mask: model({"input_ids": ids, "attention_mask": mask})[0])


def fastembed(task: Task) -> Encode:
    """fastembed as it comes (256 texts a batch in the order given), with the fused graph as its local model."""
    from fastembed import TextEmbedding

    model = TextEmbedding("sentence-transformers/all-MiniLM-L6-v2", specific_model_path=task.stock)
    return lambda texts: np.stack(list(model.embed(texts)))


def _padded(task: Task, forward: Forward) -> Encode:
    from diffembed.vectors.quantize import unit

    tokenize = _tokenizer(task)

    def encode(texts: list[str]) -> Any:
        rows = tokenize(texts)

        def vectors(group: list[int]) -> Any:
            lengths = np.array([len(rows[i]) for i in group])
            real = np.arange(lengths.max()) < lengths[:, None]
            ids = np.full(real.shape, task.pad, np.int64)
            ids[real] = np.concatenate([rows[i] for i in group])
            states = forward(ids, real.astype(np.int64))
            return unit((real[:, None].astype(np.float32) @ states)[:, 0] / lengths[:, None])

        return _in_batches([len(row) for row in rows], vectors)

    return encode


def _in_batches(lengths: list[int], vectors: Callable[[list[int]], Any]) -> Any:
    """What ``vectors`` gives for batches of our token budget, in the order of the texts."""
    from diffembed.encoder import TOKEN_BUDGET
    from diffembed.text.batching import batches_by_tokens

    groups = list(batches_by_tokens(lengths, TOKEN_BUDGET))
    found = np.concatenate([vectors(group) for group in groups])
    return found[np.argsort([i for group in groups for i in group])]


def _tokenizer(task: Task) -> Callable[[Sequence[str]], list[list[int]]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{task.source}/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(task.max_tokens)
    return lambda texts: [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]


CONTENDERS: dict[str, Callable[[Task], Encode]] = {
    "ours": ours,
    "ours-fp32": ours_fp32,
    "ours-torch": ours_torch,
    "ours-bf16": ours_bf16,
    "peer": peer,
    "peer-sorted": peer_sorted,
    "torch-sdpa": torch_sdpa,
    "ort-fp32": ort_fp32,
    "ort-int8": ort_int8,
    "openvino": openvino,
    "fastembed": fastembed,
}


# what is measured


def measure(name: str, task_file: str, vectors_file: str, started: str) -> dict[str, Any]:
    """Seconds of a contender: to its first vector, of every query, of all texts; its largest resident size.

    Args:
        started: ``time.time()`` before this process was started, so that imports count.
    """
    task = Task(**json.loads(Path(task_file).read_text(encoding="utf-8")))
    encode = CONTENDERS[name](task)
    encode(task.queries[:1])
    found: dict[str, Any] = {"load": time.time() - float(started)}
    if task.warm:
        encode(task.texts[: task.warm])
    for query in task.queries[:2]:
        encode([query])
    found["queries"] = [_timed(encode, [query])[0] for query in task.queries]
    found["seconds"], vectors = _timed(encode, task.texts)
    found["peak_mb"] = _peak_mb()
    np.save(vectors_file, vectors)
    if task.busy:
        texts = task.texts[: task.busy]
        found["quiet"] = _timed(encode, texts)[0]
        with _spinning():
            found["busy"] = _timed(encode, texts)[0]
    return found


def _timed(encode: Encode, texts: list[str]) -> tuple[float, Any]:
    start = time.perf_counter()
    vectors = encode(texts)
    return time.perf_counter() - start, vectors


@contextmanager
def _spinning() -> Iterator[None]:
    """Another process keeps one core busy (and ends by itself should this one be killed)."""
    process = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.wait()


def _peak_mb() -> float:
    """In MB, the largest so far; unlike ``getrusage`` it holds nothing of the process that started this one."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return float(line.split()[1]) / 1024


def gemm(inner: str, columns: str) -> dict[str, float]:
    """The best rate that 2,048 rows reach in fp32, in FLOP/s."""
    import torch

    from diffembed.training.throughput import peak_rate

    return {"rate": peak_rate(torch.device("cpu"), torch.float32, 2048, int(inner), int(columns))[0]}


def memory(texts_file: str, first: str) -> dict[str, float]:
    """Largest resident size of the embedded model's process within the ``first`` lines of a file, and in all."""
    from diffembed.bulk.file import encode_file

    found: dict[str, float] = {}

    def watch(done: int, _: int) -> None:
        if done >= int(first):
            found.setdefault("first", _peak_mb())

    done = encode_file(texts_file, Path(texts_file).with_suffix(".npy"), progress=watch)
    return found | {"last": _peak_mb(), "tokens_per_second": done.tokens / done.seconds}


# models made for the run


def stock(source: str, into: str, max_tokens: str) -> dict[str, Any]:
    """Files of a BERT: ``plain.onnx``, fused ``model.onnx``, ``int8.onnx``, and the tokenizer as fastembed wants it."""
    import onnx
    import torch
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.transformers.optimizer import optimize_model
    from transformers import AutoModel

    folder = Path(into)
    folder.mkdir(parents=True)
    model = AutoModel.from_pretrained(source, attn_implementation="eager", dtype=torch.float32).eval()

    class States(torch.nn.ModuleList):  # the exporter gives arguments by position, which a BertModel does not take
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = self[0](input_ids=ids, attention_mask=mask).last_hidden_state
            return states

    names = ["input_ids", "attention_mask"]
    torch.onnx.export(
        States([model]),
        (torch.ones(2, 8, dtype=torch.int64),) * 2,
        str(folder / "plain.onnx"),
        input_names=names,
        output_names=["last_hidden_state"],
        dynamic_axes={name: {0: "batch", 1: "tokens"} for name in [*names, "last_hidden_state"]},
        opset_version=17,
        dynamo=False,
    )
    shape = {"num_heads": model.config.num_attention_heads, "hidden_size": model.config.hidden_size}
    fused = optimize_model(str(folder / "plain.onnx"), model_type="bert", **shape)
    fused.save_model_to_file(str(folder / "model.onnx"))
    kinds = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # shape inference does not see through the fused operators
    quantize_dynamic(folder / "model.onnx", folder / "int8.onnx", per_channel=True, extra_options=kinds)
    for name in ("tokenizer.json", "config.json", "special_tokens_map.json"):
        shutil.copyfile(Path(source) / name, folder / name)
    config = json.loads((Path(source) / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": int(max_tokens)}))
    return {"fused": {name: int(count) for name, count in fused.get_fused_operator_statistics().items() if count}}


def qwen(into: str, layers: str) -> dict[str, str]:
    """A Qwen3 of the 0.6B shape with random weights, the vocabulary of the embedded model, and an int8 graph.

    Returns ``{"int8": ""}``, or why there is no graph.
    """
    import torch
    from transformers import Qwen3Config, Qwen3Model

    from diffembed.encoder import BUNDLED
    from diffembed.errors import DiffembedError
    from diffembed.models.checkpoint import ModelConfig, load_tokenizer, save_model
    from diffembed.models.export import Int8Options, export_onnx

    tokenizer = load_tokenizer(BUNDLED)
    torch.manual_seed(0)
    shape = QWEN3_06B | {"vocab_size": tokenizer.get_vocab_size(), "num_hidden_layers": int(layers)}
    stock_config = Qwen3Config(**shape, pad_token_id=0, bos_token_id=None, eos_token_id=1)
    config = ModelConfig("qwen3-shape", (1024,), QWEN_TOKENS, None, pad_token_id=0, eot_token_id=1, quantizer="none")
    save_model(into, Qwen3Model(stock_config), tokenizer, config, dtype="float16")
    try:
        # Calibrating a model of this size takes minutes, and random weights gain nothing by it: one text is enough.
        export_onnx(into, precisions=("int8",), int8=Int8Options(texts=["any text of a few words"]))
    except DiffembedError as error:
        return {"int8": str(error)}
    return {"int8": ""}


if __name__ == "__main__":
    main()
