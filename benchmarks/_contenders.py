"""The contenders of benchmarks/encode.py, each run in a process of its own that prints what it measured as JSON.

    python benchmarks/_contenders.py measure NAME TASK VECTORS STARTED   a contender over a task (below); see `measure`
    python benchmarks/_contenders.py gemm INNER COLUMNS                  the rates of fp32 and int8 matrix products
    python benchmarks/_contenders.py memory TEXTS FIRST                  largest resident size early and late in a file

A contender is a function that loads a model and gives another one, from texts to vectors: tokenizing, batching and
pooling are part of it. What it needs is imported inside, so that no contender pays for another's packages. Peers that
bring no loop of their own (torch, onnxruntime, OpenVINO) get the project's: tokens counted by `tokenizers`, batches of
one token budget sorted by length, padded to the longest of the batch.
"""

from __future__ import annotations

import json
import resource
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
BESIDE = ("ours", "peer")  # read texts again beside a busy process
SPIN = "import time\nend = time.monotonic() + 600\nwhile time.monotonic() < end: pass"


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
        busy: how many of the texts those of ``BESIDE`` read again while another process keeps a core busy.
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
    known: dict[str, Callable[..., Any]] = {made.__name__: made for made in (measure, gemm, memory)}
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
    from diffembed.models.checkpoint import read_model_config
    from diffembed.vectors.quantize import quantize

    tokenize, config = _tokenizer(task), read_model_config(Path(task.exact))

    def encode(texts: list[str]) -> Any:
        rows = tokenize(texts)

        def vectors(group: list[int]) -> Any:
            lengths = np.array([len(rows[i]) for i in group])
            real = np.arange(lengths.max()) < lengths[:, None]
            ids = np.full(real.shape, task.pad, np.int64)
            ids[real] = np.concatenate([rows[i] for i in group])
            states = forward(ids, real.astype(np.int64))
            means = (real[:, None].astype(np.float32) @ states)[:, 0] / lengths[:, None]
            return quantize(means, "float32", quantizer=config.quantizer, normalize=config.normalize)

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
    if task.busy and name in BESIDE:
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
    """The best rates that 2,048 rows reach, in operations a second: fp32 by torch, bytes by onnxruntime."""
    import torch

    from diffembed.training.throughput import peak_rate

    rate = peak_rate(torch.device("cpu"), torch.float32, 2048, int(inner), int(columns))[0]
    return {"rate": rate, "int8": _integer_rate(2048, int(inner), int(columns))}


def _integer_rate(rows: int, inner: int, columns: int) -> float:
    """The best rate of ``MatMulInteger`` on unsigned by signed bytes, the weights known when it loads."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.integers(-63, 64, (inner, columns), np.int8), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "weight"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [rows, inner])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [rows, columns])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {"x": rng.integers(0, 256, (rows, inner), np.uint8)}
    seconds = min(_timed(lambda _: session.run(None, given), [])[0] for _ in range(20))
    return 2.0 * rows * inner * columns / seconds


def memory(texts_file: str, first: str) -> dict[str, float]:
    """Largest resident size of the embedded model's process within the ``first`` lines of a file, and in all."""
    from diffembed.bulk.file import encode_file

    found: dict[str, float] = {}

    def watch(done: int, _: int) -> None:
        if done >= int(first):
            found.setdefault("first", _peak_mb())

    done = encode_file(texts_file, Path(texts_file).with_suffix(".npy"), progress=watch)
    return found | {"last": _peak_mb(), "tokens_per_second": done.tokens / done.seconds}


if __name__ == "__main__":
    main()
