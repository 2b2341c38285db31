"""LlamaIndex: the model as a ``BaseEmbedding`` that, as a transformation, reads the nodes of a document together.

Given as ``embed_model`` it embeds queries and single texts. Given among the ``transformations``, after the splitter,
it sees whole nodes and knows the document of each, so that a contextual model reads them together; an index keeps the
vectors that nodes come with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Literal

from diffembed.encoder import Encoder
from diffembed.integrations.bound import BoundEncoder, as_lists, bind, missing_extra
from diffembed.integrations.llamaindex_store import DiffembedVectorStore

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.schema import BaseNode, MetadataMode
except ImportError as error:
    raise missing_extra("llamaindex", "llama-index-core", error) from error

__all__ = ["DiffembedEmbedding", "DiffembedVectorStore"]

Vector = list[float]
_LARGEST_BATCH = 2048  # what LlamaIndex allows; the encoder makes batches of its own


class DiffembedEmbedding(BaseEmbedding):
    """A model behind LlamaIndex's interface.

    Args:
        model: ``default``, a directory, a hub id, or an ``Encoder`` that was loaded with options of your own (which
            ``to_dict`` then knows by its name only).
        dtype: ``float32``; ``int8`` (floats of integer value, -127 to 127); ``binary`` (-1.0 and 1.0 a dimension).
            Compare by cosine.
        dims: one of the model's widths; ``None`` for the widest.
        truncate: cut texts over the model's limit (the log says how many) instead of refusing them.
        windows: read them through several windows instead.
        contextual: as a transformation, read the nodes of one document (``ref_doc_id``) together, in the order given;
            a node without a document is read alone. ``None``: where the model was trained for it.
        options: ``embed_batch_size``, ``callback_manager``, ``num_workers`` of ``BaseEmbedding``.

    Raises:
        ModelError: no such model, or it is damaged.
    """

    dtype: Literal["float32", "int8", "binary"] = "float32"
    dims: int | None = None
    truncate: bool = False
    windows: bool = False
    contextual: bool = False

    _bound: BoundEncoder = PrivateAttr()

    def __init__(
        self,
        model: str | Path | Encoder | None = None,
        *,
        dtype: Literal["float32", "int8", "binary"] = "float32",
        dims: int | None = None,
        truncate: bool = False,
        windows: bool = False,
        contextual: bool | None = None,
        model_name: str = "default",
        embed_batch_size: int = _LARGEST_BATCH,
        **options: Any,
    ) -> None:
        # from_dict and unpickling know the model by its field, model_name
        chosen = model_name if model is None else model
        bound = bind(chosen, dtype=dtype, dims=dims, truncate=truncate, windows=windows)
        super().__init__(
            model_name=bound.encoder.model_id,
            embed_batch_size=embed_batch_size,
            dtype=dtype,
            dims=dims,
            truncate=truncate,
            windows=windows,
            contextual=bound.encoder.contextual if contextual is None else contextual,
            **options,
        )
        self._bound = bound

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex stores it."""
        return "DiffembedEmbedding"

    def _get_query_embedding(self, query: str) -> Vector:
        return as_lists(self._bound.queries([query]))[0]

    def _get_text_embedding(self, text: str) -> Vector:
        return as_lists(self._bound.documents([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Vector]:
        return as_lists(self._bound.documents(texts))

    async def _aget_query_embedding(self, query: str) -> Vector:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> Vector:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Vector]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Give every node its vector; with ``contextual``, the nodes of a document are read together."""
        if not self.contextual:
            embedded: Sequence[BaseNode] = super().__call__(nodes, **kwargs)
            return embedded
        self._embed_together(nodes)
        return nodes

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """The same, in a thread."""
        if not self.contextual:
            embedded: Sequence[BaseNode] = await super().acall(nodes, **kwargs)
            return embedded
        await asyncio.to_thread(self._embed_together, nodes)
        return nodes

    def _embed_together(self, nodes: Sequence[BaseNode]) -> None:
        owners: list[Hashable] = [node.ref_doc_id or (row,) for row, node in enumerate(nodes)]
        texts = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        for node, vector in zip(nodes, as_lists(self._bound.together(texts, owners)), strict=True):
            node.embedding = vector
