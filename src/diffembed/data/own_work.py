"""A user's own folder as the data of a short run: what is trained on, and retrieval tasks to choose and to report by.

text.jsonl     training documents, in stretches: {"text"}
rows.jsonl     pairs of training documents (``examples.py``)
groups.jsonl   training documents as the chunks that an index makes of them, with questions
dev/           BEIR folders of the questions of that part's documents, whose words are taken out of their answers:
heldout/       a test that only asks for the question's own words back would be none. heldout/ searches the chunks
               of all documents, dev/ those of its own and some of the training documents
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffembed.data.examples import Grouped, Pair, Question, example_line
from diffembed.data.own_folder import PARAGRAPH, OwnDocument, OwnFolder, questions_apart
from diffembed.data.own_text import without
from diffembed.text.chunking import Chunk, chunk_document
from diffembed.text.pieces import CountTokens
from diffembed.text.readers import SourceText
from diffembed.text.sentences import Span

TEXT, ROWS, GROUPS = "text.jsonl", "rows.jsonl", "groups.jsonl"
DEV, HELD_OUT = "dev", "heldout"
_STRETCH = 6000  # characters of a row of text
_DEV_CHUNKS = 2000  # of training documents that the dev questions search besides their own


@dataclass(frozen=True, slots=True)
class WorkReport:
    """What a work folder holds.

    Attributes:
        origins: how many training pairs are from headings, questions, first sentences and code.
    """

    texts: int
    pairs: int
    groups: int
    origins: Mapping[str, int]
    dev_questions: int
    held_out_questions: int
    chunks: int


def write_work(folder: OwnFolder, into: Path, *, count_tokens: CountTokens, chunk_tokens: int) -> WorkReport:
    """Write the files that the module describes.

    Args:
        count_tokens: how many tokens the model makes of texts.
        chunk_tokens: length of the chunks that are searched.
    """
    into.mkdir(parents=True, exist_ok=True)

    def cut(document: OwnDocument, gone: Sequence[Span] = ()) -> tuple[list[Chunk], list[tuple[int, int]]]:
        text, cuts = without(document.source.text, gone)
        source = replace(
            SourceText.plain(text, document.source.kind),
            breaks=tuple(_moved(offset, cuts) for offset in document.source.breaks),
        )
        return chunk_document(source, count_tokens=count_tokens, max_tokens=chunk_tokens), cuts

    texts = [piece for document in folder.train for piece in stretches(document.source.text)]
    _write(into / TEXT, (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))
    pairs = [pair for document in folder.train for pair in pairs_of(document)]
    _write(into / ROWS, map(example_line, pairs))
    chunks = {d.id: cut(d)[0] for d in folder.documents}
    groups = [row for d in folder.train if (row := _group(d, chunks[d.id]))]
    _write(into / GROUPS, map(example_line, groups))
    asked = {}
    for name, part in ((DEV, folder.dev), (HELD_OUT, folder.held_out)):
        tested = {d.id: (d, *cut(d, [a.words for a in questions_apart(d)])) for d in part}
        others = {d.id: chunks[d.id] for d in (folder.train if name == DEV else (*folder.train, *folder.dev))}
        if name == DEV:  # asked once for every share of a merge: a part of the corpus is enough to choose by
            counts = itertools.accumulate(map(len, others.values()))
            others = {i: c for (i, c), so_far in zip(others.items(), counts, strict=True) if so_far <= _DEV_CHUNKS}
        asked[name] = _write_task(into / name, tested, others)
    return WorkReport(
        texts=len(texts),
        pairs=len(pairs),
        groups=len(groups),
        origins=Counter(a.origin for d in folder.train for a in d.asked),
        dev_questions=asked[DEV],
        held_out_questions=asked[HELD_OUT],
        chunks=sum(map(len, chunks.values())),
    )


def pairs_of(document: OwnDocument) -> list[Pair]:
    """The questions of a document with their answers: every second one without the question's own words in it."""
    rows = []
    for number, asked in enumerate(document.asked):
        start, end = asked.answer
        text = document.source.text[start:end]
        if zlib.crc32(asked.query.encode("utf-8", "surrogatepass")) % 2:
            first, last = (max(0, at - start) for at in asked.words)
            text = text[:first] + text[last:]
        if text.strip():
            rows.append(Pair(asked.query, text.strip(), id=f"{document.id}#{number}", source=asked.origin))
    return rows


def stretches(text: str, characters: int = _STRETCH) -> Iterator[str]:
    """A text in pieces of whole paragraphs, each about so long at most; a longer paragraph is a piece.

    >>> list(stretches("One.\\n\\nTwo.\\n\\nThree.", 12))
    ['One.\\n\\nTwo.', 'Three.']
    """
    start = 0
    for found in PARAGRAPH.finditer(text):
        if found.end() - start > characters and text[start : found.start()].strip():
            yield text[start : found.start()].strip()
            start = found.start()
    if text[start:].strip():
        yield text[start:].strip()


def _group(document: OwnDocument, chunks: Sequence[Chunk]) -> Grouped | None:
    if len(chunks) < 3 or not document.asked:
        return None
    questions = tuple(Question(a.query, _gold(chunks, a.answer)[0]) for a in document.asked)
    return Grouped(tuple(chunk.text for chunk in chunks), questions, document_id=document.id)


def _gold(chunks: Sequence[Chunk], answer: Span) -> list[int]:
    """The chunks that answer, the best first: those of which most is the answer, or that hold most of it."""
    start, end = answer
    shares = []
    for number, chunk in enumerate(chunks):
        common = min(end, chunk.end) - max(start, chunk.start)
        share = common / max(1, min(end - start, chunk.end - chunk.start))
        shares.append((-min(share, 0.9), number) if share > 0 else (0.0, number))
    best = sorted(shares)
    return [best[0][1], *(number for share, number in best[1:] if share <= -0.5)]


def _write_task(
    folder: Path,
    tested: Mapping[str, tuple[OwnDocument, list[Chunk], list[tuple[int, int]]]],
    others: Mapping[str, Sequence[Chunk]],
) -> int:
    """A BEIR folder; the number of questions."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus, queries, judged = [], [], ["query-id\tcorpus-id\tscore\n"]
    documents = {**others, **{identifier: chunks for identifier, (_, chunks, _) in tested.items()}}
    for identifier, chunks in sorted(documents.items()):
        for place, chunk in enumerate(chunks):
            row = {"_id": f"{identifier}#{place}", "text": chunk.text, "doc_id": identifier, "chunk_idx": place}
            corpus.append(json.dumps(row, ensure_ascii=False) + "\n")
    for identifier, (document, chunks, cuts) in sorted(tested.items()):
        for number, asked in enumerate(questions_apart(document)):
            name = f"{identifier}?{number}"
            queries.append(json.dumps({"_id": name, "text": asked.query}, ensure_ascii=False) + "\n")
            answer = (_moved(asked.answer[0], cuts), _moved(asked.answer[1], cuts))
            judged += [f"{name}\t{identifier}#{place}\t1\n" for place in _gold(chunks, answer)]
    _write(folder / "corpus.jsonl", corpus)
    _write(folder / "queries.jsonl", queries)
    _write(folder / "qrels.tsv", judged)
    return len(queries)


def _moved(offset: int, cuts: Sequence[tuple[int, int]]) -> int:
    """Where an offset of a text is after cuts (see ``without``)."""
    gone = 0
    for at, total in cuts:
        if at > offset:
            break
        gone = total
    return offset - gone


def _write(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(lines)
