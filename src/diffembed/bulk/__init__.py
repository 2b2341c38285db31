"""Bulk encoding: files of texts to files of vectors, of any size.

``encode_file`` writes one file, whole or not at all. ``encode_folder`` writes shards and goes on where it was killed;
``verify_folder`` checks what it wrote.
"""

from __future__ import annotations

from diffembed.bulk.file import EncodeReport, encode_file
from diffembed.bulk.folder import FolderReport, encode_folder
from diffembed.bulk.verify import VerifyReport, verify_folder

__all__ = ["EncodeReport", "FolderReport", "VerifyReport", "encode_file", "encode_folder", "verify_folder"]
