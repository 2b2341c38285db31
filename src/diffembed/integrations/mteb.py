"""MTEB: a model that ``mteb.evaluate`` runs, and judged folders as MTEB tasks, chunks of whole documents included.

MTEB knows no contextual tasks, but it hands over every column of a corpus. Where the rows carry ``doc_id`` and
``chunk_idx`` (as in this project's BEIR folders), a contextual :class:`MtebEncoder` reads the chunks of a document
together. It says itself how a corpus is searched, since MTEB would encode it in pieces that may cut a document in two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.integrations.bound import as_floats, bind, missing_extra
from diffembed.models.files import check_safetensors, weight_files
from diffembed.vectors.embeddings import VectorDtype
from diffembed.vectors.quantize import FloatArray

try:
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models import ModelMeta, SearchEncoderWrapper
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.types import OutputDType, PromptType
except ImportError as error:
    raise missing_extra("mteb", "mteb", error) from error

if TYPE_CHECKING:
    from diffembed.data.beir import RetrievalTask

__all__ = ["MtebEncoder", "retrieval_task"]

_CHUNKED = {"doc_id", "chunk_idx"}


class MtebEncoder(AbsEncoder):
    """A model as MTEB wants it.

    Queries are encoded with ``encode_queries``, documents with ``encode_documents``, and the texts of tasks without
    such roles (similarity, classification, clustering) as queries, which is what models with prompts advise. Vectors
    are compared by cosine. int8 vectors are given as floats of integer value, bits as -1.0 and 1.0.

    Args:
        model: ``default``, a directory, a hub id, or an ``Encoder`` that was loaded with options of your own.
        dtype: ``float32``, ``int8`` or ``binary``.
        dims: one of the model's widths; ``None`` for the widest.
        contextual: read chunks of a document together; ``None``: where the model was trained for it.
        truncate: cut texts over the model's limit, as there is no other way to score them; ``False`` refuses them.
        windows: read them through several windows instead.
        progress: called with (texts encoded, texts) of each call of MTEB.

    Attributes:
        truncated: inputs (a contextual document counts once) that were cut so far.
        empty: texts without content so far; they get a vector of zeros, which is like nothing.
        mteb_model_meta: what MTEB files the results under.

    Raises:
        ModelError: no such model, or it is damaged.
    """

    def __init__(
        self,
        model: str | Path | Encoder = "default",
        *,
        dtype: VectorDtype = "float32",
        dims: int | None = None,
        contextual: bool | None = None,
        truncate: bool = True,
        windows: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        bound = bind(model, dtype=dtype, dims=dims, truncate=truncate, windows=windows)
        self._bound = replace(bound, progress=progress)
        self.model = self._bound.encoder
        self.contextual = self.model.contextual if contextual is None else contextual
        self.truncated = 0
        self.empty = 0
        self.mteb_model_meta = self._describe()
        self._search: Any = None

    def encode(self, inputs: Any, *, prompt_type: Any = None, **options: Any) -> FloatArray:
        """``[texts, dims]`` vectors of all batches of a data loader.

        A contextual model reads documents with ``doc_id`` and ``chunk_idx`` together, as far as they are among them.
        """
        batches = list(inputs)
        texts = [text for batch in batches for text in batch["text"]]
        kept = [row for row, text in enumerate(texts) if text.strip()]
        some = [texts[row] for row in kept]
        if prompt_type != PromptType.document:
            read = self._bound.queries(some)
        elif self.contextual and batches and set(batches[0]) >= _CHUNKED:
            owners = [owner for batch in batches for owner in batch["doc_id"]]
            places = [int(place) for batch in batches for place in batch["chunk_idx"]]
            # a row of a mixed corpus that is no chunk has an empty doc_id: it is a document of its own
            read = self._bound.together(some, [owners[i] or (i,) for i in kept], [places[i] for i in kept])
        else:
            read = self._bound.documents(some)
        self.truncated += len(read.truncated)
        self.empty += len(texts) - len(kept)
        vectors = np.zeros((len(texts), self._bound.width), np.float32)
        vectors[kept] = as_floats(read)
        return vectors

    def index(self, corpus: Any, **options: Any) -> None:
        """Take a corpus. Chunks that are read together are encoded in one piece, so that no document is cut."""
        whole = self.contextual and set(corpus.column_names) >= _CHUNKED
        self._search = SearchEncoderWrapper(self, **({"corpus_chunk_size": max(1, len(corpus))} if whole else {}))
        self._search.index(corpus, **options)

    def search(self, queries: Any, **options: Any) -> Any:
        """MTEB's exact search of the corpus that was taken last."""
        return self._search.search(queries, **options)

    def _describe(self) -> ModelMeta:
        encoder, bound = self.model, self._bound
        config = encoder.config
        files = weight_files(encoder.path)
        heads = {file: check_safetensors(file) for file in set(files.values())}
        how = {"dtype": bound.dtype, "dims": bound.width, "contextual": self.contextual, "windows": bound.windows}
        return ModelMeta(
            loader=None,
            name=encoder.model_id if _is_hub_id(encoder.model_id) else f"diffembed/{config.name}",
            revision=encoder.fingerprint[:16],
            release_date=None,
            languages=None,
            n_parameters=sum(prod(heads[file][name].shape) for name, file in files.items()),
            memory_usage_mb=sum(file.stat().st_size for file in heads) / 2**20,
            max_tokens=encoder.max_tokens,
            embed_dim=bound.width,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["ONNX" if encoder.runtime.name == "onnx" else "PyTorch"],
            similarity_fn_name="cosine",
            use_instructions=bool(config.query_prompt or config.document_prompt),
            training_datasets=None,
            output_dtypes=OutputDType(bound.dtype),
            experiment_kwargs=how,
        )


def retrieval_task(task: RetrievalTask, *, languages: Sequence[str] = ("eng-Latn",)) -> AbsTaskRetrieval:
    """A judged folder (``load_beir``) as a retrieval task of MTEB, without the network.

    ``doc_id`` and ``chunk_idx`` are columns of its corpus, so that a contextual :class:`MtebEncoder` reads the chunks
    of a document together; other models read them singly.

    Args:
        task: what was read from the folder.
        languages: of queries and documents, as MTEB writes them.

    Raises:
        InputError: the task leaves out pairs other than a query and itself, which MTEB cannot do.
    """
    itself = {query: frozenset({query}) for query in task.queries}
    left_out = {query: pairs for query, pairs in task.excluded.items() if query in itself and pairs}
    if left_out not in ({}, itself):
        raise InputError(
            f"{task.name} leaves out pairs of queries and documents (exclude.tsv), which MTEB cannot; score it with: "
            "diffembed evaluate retrieval"
        )
    corpus: dict[str, list[Any]] = {"id": list(task.document_ids), "text": list(task.texts)}
    if task.doc_ids is not None and task.chunk_idx is not None:
        corpus |= {"doc_id": [owner or "" for owner in task.doc_ids], "chunk_idx": list(task.chunk_idx)}
    metadata_of_task = TaskMetadata(
        name=task.name,
        description=f"{len(task.queries)} judged queries over {len(task.texts)} documents of {task.name}.",
        dataset={"path": task.name, "revision": "local"},
        type="Retrieval",
        category="t2t",
        eval_splits=["test"],
        eval_langs=list(languages),
        main_score="ndcg_at_10",
    )

    class LocalRetrieval(AbsTaskRetrieval):
        """A retrieval task whose data is given, not fetched."""

        metadata = metadata_of_task
        ignore_identical_ids = bool(left_out)

    local = LocalRetrieval()
    local.dataset = {
        "default": {
            "test": {
                "corpus": Dataset.from_dict(corpus),
                "queries": Dataset.from_dict({"id": list(task.queries), "text": list(task.queries.values())}),
                "relevant_docs": {query: dict(judged) for query, judged in task.qrels.items()},
                "top_ranked": None,
            }
        }
    }
    local.data_loaded = True
    return local


def _is_hub_id(model_id: str) -> bool:
    return model_id.count("/") == 1 and not Path(model_id).exists()
