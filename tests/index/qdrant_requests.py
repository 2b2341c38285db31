"""Bodies of REST requests as the calls of Qdrant's own engine, and its points as JSON."""

from __future__ import annotations

from typing import Any

import qdrant_edge as edge

Json = dict[str, Any]


def quantization(config: Json | None) -> Any:
    if config is None:
        return None
    ((kind, options),) = config.items()
    ram = options.get("always_ram")
    if kind == "scalar":
        return edge.ScalarQuantizationConfig(
            type=edge.ScalarType.Int8, quantile=options.get("quantile"), always_ram=ram
        )
    if kind == "binary":
        query = {"scalar8bits": edge.BinaryQuantizationQueryEncoding.Scalar8Bits, None: None}
        return edge.BinaryQuantizationConfig(always_ram=ram, query_encoding=query[options.get("query_encoding")])
    bits = {"bits4": edge.TurboQuantBitSize.Bits4, "bits1": edge.TurboQuantBitSize.Bits1}
    return edge.TurboQuantQuantizationConfig(always_ram=ram, bits=bits[options["bits"]])


def schema(config: Any) -> Any:
    if isinstance(config, str):
        return getattr(edge.PayloadSchemaType, config.capitalize())
    options = {k: v for k, v in config.items() if k != "type" and v is not None}
    if config["type"] == "keyword":
        return edge.KeywordIndexParams(**options)
    assert config["type"] == "text"
    tokenizers = {"word": edge.TokenizerType.Word, "multilingual": edge.TokenizerType.Multilingual}
    options["tokenizer"] = tokenizers[options["tokenizer"]]
    return edge.TextIndexParams(**options)


def condition(body: Json) -> Any:
    if "key" in body:
        match, limits = body.get("match"), body.get("range")
        kinds = {
            "value": edge.MatchValue,
            "any": edge.MatchAny,
            "prefix": edge.MatchPrefix,
            "text": edge.MatchText,
        }
        found = next((kind(match[name]) for name, kind in kinds.items() if match and name in match), None)
        ranged = edge.RangeFloat(**{k: v for k, v in limits.items() if v is not None}) if limits else None
        return edge.FieldCondition(key=body["key"], match=found, range=ranged)
    if "is_null" in body:
        return edge.IsNullCondition(body["is_null"]["key"])
    if "is_empty" in body:
        return edge.IsEmptyCondition(body["is_empty"]["key"])
    if "has_id" in body:
        return edge.HasIdCondition(set(body["has_id"]))
    return filter_of(body)


def filter_of(body: Json | None) -> Any:
    if not body:
        return None

    def several(part: Any) -> Any:
        return None if part is None else [condition(c) for c in (part if isinstance(part, list) else [part])]

    return edge.Filter(
        must=several(body.get("must")), should=several(body.get("should")), must_not=several(body.get("must_not"))
    )


def search_params(body: Json | None) -> Any:
    if body is None:
        return None
    q = body.get("quantization")
    return edge.SearchParams(
        hnsw_ef=body.get("hnsw_ef"),
        exact=bool(body.get("exact")),
        acorn=edge.AcornSearchParams(enable=True) if (body.get("acorn") or {}).get("enable") else None,
        quantization=edge.QuantizationSearchParams(
            ignore=bool(q.get("ignore")), rescore=q.get("rescore"), oversampling=q.get("oversampling")
        )
        if q
        else None,
    )


def query_of(body: Json) -> Any:
    asked = body.get("query")
    if asked is None:
        return None
    if isinstance(asked, list):
        return edge.Query.Nearest(asked)
    if "nearest" in asked:
        return edge.Query.Nearest(asked["nearest"])
    if "rrf" in asked:
        return edge.Fusion.Rrf(asked["rrf"].get("k") or 2, asked["rrf"].get("weights"))
    assert "text" in asked, asked
    return edge.TextQuery(body["using"], asked["text"])


def prefetch(body: Json) -> Any:
    return edge.Prefetch(
        query=query_of(body),
        limit=body["limit"],
        params=search_params(body.get("params")),
        filter=filter_of(body.get("filter")),
    )


def point_json(point: Any, *, score: bool = False) -> Json:
    said = {"id": point.id if isinstance(point.id, int) else str(point.id), "payload": point.payload}
    said["vector"] = point.vector
    return {**said, "version": point.version, "score": point.score} if score else said


def points_of(body: Json) -> list[Any]:
    if batch := body.get("batch"):
        listed = zip(batch["ids"], batch["vectors"], batch["payloads"] or [None] * len(batch["ids"]), strict=True)
    else:
        listed = ((p["id"], p["vector"], p.get("payload")) for p in body["points"])
    return [edge.Point(id_, vector, payload or {}) for id_, vector, payload in listed]
