"""From text on disk to ranked chunks: a catalog, immutable vector segments, and the search over them."""

from diffembed.index.documents import Document
from diffembed.index.encoding import Hit
from diffembed.index.folder import SearchReport, index_paths, search_paths, search_paths_all, watch_paths, watch_search
from diffembed.index.index import Index
from diffembed.index.refresh import RefreshReport

__all__ = [
    "Document",
    "Hit",
    "Index",
    "RefreshReport",
    "SearchReport",
    "index_paths",
    "search_paths",
    "search_paths_all",
    "watch_paths",
    "watch_search",
]
