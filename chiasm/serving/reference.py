"""The REST API for people to read: routes of an OpenAPI document, and the page `/docs`, which needs no script and no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@dataclass(frozen=True)
class Parameter:
    """One parameter of a route, or one field of a schema."""

    name: str
    where: str  # "path", "query", "header"; of a field "required" or empty
    type: str
    about: str


@dataclass(frozen=True)
class Route:
    """One method of one path."""

    method: str
    path: str
    about: str
    parameters: tuple[Parameter, ...]
    bodies: tuple[tuple[str, str], ...]  # media type and name of its schema, empty where it has none
    answers: tuple[tuple[str, str, str], ...]  # status, meaning, name of its schema


def routes_of(document: Mapping[str, Any]) -> Iterator[Route]:
    """Yield the routes of an OpenAPI document, by path."""
    for path, methods in sorted(document["paths"].items()):
        for method, route in methods.items():
            yield Route(
                method.upper(),
                path,
                str(route.get("description") or route.get("summary") or ""),
                tuple(
                    Parameter(one["name"], one["in"], type_of(one.get("schema", {})), str(one.get("description", "")))
                    for one in route.get("parameters", ())
                ),
                tuple(_bodies(route.get("requestBody", {}).get("content", {}))),
                tuple(
                    (
                        code,
                        str(answer.get("description", "")),
                        next((name for _, name in _bodies(answer.get("content", {}))), ""),
                    )
                    for code, answer in route["responses"].items()
                ),
            )


def _bodies(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for kind, body in content.items():
        name = body.get("schema", {}).get("$ref", "").rpartition("/")[2]
        yield kind, name


def schemas_of(document: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[Parameter, ...]]]:
    """Yield name, meaning and fields of the schemas of an OpenAPI document, by name."""
    for name, schema in sorted(document.get("components", {}).get("schemas", {}).items()):
        needed = set(schema.get("required", ()))
        yield (
            name,
            str(schema.get("description", "")),
            tuple(
                Parameter(field, "required" if field in needed else "", type_of(one), str(one.get("description", "")))
                for field, one in schema.get("properties", {}).items()
            ),
        )


def type_of(schema: Mapping[str, Any]) -> str:
    """Return the type of a schema in words.

    Example:
        >>> type_of({"anyOf": [{"type": "array", "items": {"$ref": "#/x/Hit"}}, {"type": "null"}]})
        'array of Hit, or null'
    """
    parts = schema.get("anyOf") or schema.get("oneOf")
    if parts:
        return ", or ".join(dict.fromkeys(map(type_of, parts)))
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema or "const" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    if schema.get("type") == "array":
        return f"array of {type_of(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


def reference_page(document: Mapping[str, Any]) -> str:
    """Return the page `/docs`: HTML with the style of the page, and nothing else."""
    pages = Environment(
        loader=PackageLoader("chiasm", "serving"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = pages.get_template("reference.html.j2")
    return page.render(
        title=document["info"]["title"],
        version=document["info"]["version"],
        routes=list(routes_of(document)),
        schemas=list(schemas_of(document)),
    )
