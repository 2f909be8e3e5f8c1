"""What the service understands, as OpenAPI 3.1: clients, and the fuzz tests, are made from it.

The limits here are those that app.py checks; `description(modes, reranks)` says what one index can do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retrievers.index import MAX_K, MAX_QUERY

MAX_QUERIES = 4096
"""In one request."""
MAX_TEXTS = 256
"""To be embedded in one request: vectors are long to write."""
MAX_PASSAGES = 50_000
"""Queries times k: what an answer may hold."""
MAX_BODY = 8 << 20
"""Bytes."""
DEFAULT_K = 5
DEFAULT_TOPK = 3
"""Search-R1's own."""

_TEXT = {"type": "string", "maxLength": MAX_QUERY}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_QUERIES}
_PASSAGE = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "title": {"type": "string"},
        "text": {"type": "string"},
        "score": {"type": "number"},
    },
    "required": ["id", "title", "text", "score"],
}
_DOCUMENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "contents": {"type": "string", "description": 'The title in double quotes, "\\n", the text.'},
    },
    "required": ["id", "contents"],
}
_SCORED = {
    "type": "object",
    "properties": {"document": _DOCUMENT, "score": {"type": "number"}},
    "required": ["document", "score"],
}


def description(modes: Sequence[str], reranks: bool) -> dict[str, Any]:
    shared = {
        "k": {"type": "integer", "minimum": 1, "maximum": MAX_K, "default": DEFAULT_K},
        "mode": {"type": ["string", "null"], "enum": [*modes, None], "default": modes[-1]},
        "rerank": {"type": "boolean", "default": False, **({} if reranks else {"const": False})},
    }
    search = {
        "oneOf": [
            _record({"query": _TEXT, **shared}, "query"),
            _record({"queries": _TEXTS, **shared}, "queries"),
        ]
    }
    retrieve = {
        "type": "object",
        "properties": {
            "queries": _TEXTS,
            "topk": {"type": ["integer", "null"], "minimum": 0, "maximum": MAX_K, "default": DEFAULT_TOPK},
            "return_scores": {"type": "boolean", "default": False},
        },
        "required": ["queries"],
    }
    lists = {"type": "array", "items": {"type": "array", "items": _PASSAGE}}
    found = _record({"mode": {"enum": list(modes)}, "index": {"type": "string"}, "results": lists})
    results = {"type": "array", "items": {"type": "array", "items": {"anyOf": [_SCORED, _DOCUMENT]}}}
    embed = _record({"texts": {**_TEXTS, "maxItems": MAX_TEXTS}})
    vectors = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
    embedded = _record({"encoder": {"type": "string"}, "vectors": vectors})
    embeds = {"/embed": {"post": _post("Vectors of texts, each of length 1.", embed, embedded)}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "agentdistill retriever", "version": "1"},
        "paths": {
            "/search": {"post": _post("The best passages for each query, best first.", search, found)},
            "/retrieve": {
                "post": _post("The same as Search-R1 asks for it.", retrieve, _record({"result": results}))
            },
            **(embeds if "dense" in modes else {}),
            "/health": {"get": _get("What is served.", "application/json", {"type": "object"})},
            "/metrics": {
                "get": _get("For Prometheus.", "text/plain", {"type": "string"}, [{"token": []}], "401")
            },
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _record(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    needed = list(required) or list(properties)
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}


def _post(summary: str, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "security": [{"token": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": _content("application/json", answer), **_errors()},
    }


def _get(
    summary: str, kind: str, schema: dict[str, Any], security: Sequence[dict[str, Any]] = (), *errors: str
) -> dict[str, Any]:
    return {
        "summary": summary,
        "security": list(security),
        "responses": {"200": _content(kind, schema), **_errors(*errors)},
    }


def _content(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": "Found.", "content": {kind: {"schema": schema}}}


ERRORS = {
    "400": "The body is no JSON.",
    "401": "The token is missing or wrong.",
    "403": "A browser asks, or a host name that isn't this machine's.",
    "408": "The body didn't come.",
    "413": "The body is too long.",
    "422": "A field is missing, unknown, of the wrong type or beyond its limit.",
    "503": "Too much is waiting; try again.",
}


def _errors(*only: str) -> dict[str, Any]:
    schema = _record({"error": {"type": "string"}, "remedy": {"type": "string"}})
    content = {"application/json": {"schema": schema}}
    return {
        status: {"description": text, "content": content}
        for status, text in ERRORS.items()
        if not only or status in only
    }
