"""The reference, made from the code when the site is built: settings, records, commands. Nothing of it is kept in a file."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from pydantic.json_schema import models_json_schema

from aft_ray.config import RunConfig
from schemas import CandidateGroup, Evaluation, Question, ReferenceScores, StageManifest

RECORDS = (Question, CandidateGroup, Evaluation, ReferenceScores, StageManifest)
NAMES = {"string": "text", "boolean": "true or false", "null": "none", "object": "names and values"}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
Schema = dict[str, Any]


def settings() -> str:
    schema = RunConfig.model_json_schema()
    return "".join(parts("", schema, schema["$defs"]))


def parts(prefix: str, model: Schema, models: Schema) -> Iterator[str]:
    """A part of the configuration, and behind it those within it; a list of parts (task.parts) is named and not repeated."""
    yield section(f"`{prefix.rstrip('.')}`" if prefix else "The run", prefix, model)
    for name, field in model["properties"].items():
        for one in (field, *field.get("anyOf", ())):
            if "$ref" in one:
                yield from parts(f"{prefix}{name}.", models[model_of(one)], models)


def model_of(field: Schema) -> str:
    return str(field["$ref"]).rpartition("/")[2]


def records() -> str:
    _, schema = models_json_schema([(record, "validation") for record in RECORDS])
    return "".join(section(f"`{name}`", "", model) for name, model in schema["$defs"].items() if "properties" in model)


def section(title: str, prefix: str, model: Schema) -> str:
    required = model.get("required", [])
    rows = [
        f"| `{prefix}{name}` | {kind(field)} | {default(field) if name not in required else ''} | {meaning(field)} |"
        for name, field in model["properties"].items()
    ]
    table = ["| name | kind | unless told | meaning |", "|---|---|---|---|", *rows]
    return "\n".join([f"\n## {title}\n", model.get("description", "").partition("\n")[0], "", *table, ""])


def meaning(field: Schema) -> str:
    return str(field.get("description", "")).replace("|", "\\|")


def kind(field: Schema) -> str:
    """What a value may be, in words, from its JSON schema."""
    if "$ref" in field:
        return f"`{model_of(field)}`"
    if "anyOf" in field:
        return ", or ".join(kind(one) for one in field["anyOf"])
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if "prefixItems" in field:
        return f"[{', '.join(kind(item) for item in field['prefixItems'])}]"
    if "items" in field:
        return f"list of {kind(field['items'])}"
    bounds = [f"{words} {shown(field[name])}" for name, words in BOUNDS.items() if name in field]
    name = field.get("format") or field.get("type", "anything")
    return " ".join([NAMES.get(name, name), ", ".join(bounds)]).strip()


def default(field: Schema) -> str:
    value = field.get("default")
    if value is None:
        return "none"
    if value in ([], {}):
        return "empty"
    if isinstance(value, dict):
        return "see below"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def shown(bound: float) -> str:
    """Of the limits of 64 bits and the like, their power of two."""
    exponent = int(abs(bound)).bit_length() - 1
    return f"{'-' if bound < 0 else ''}2^{exponent}" if exponent >= 32 and abs(bound) == 2**exponent else f"{bound:g}"


def commands() -> str:
    """By Typer's own generator of such pages."""
    command = [sys.executable, "-m", "typer", "aft_ray.cli", "utils", "docs", "--name", "aft-ray"]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return made[made.index("\n## ") :]  # without what --help prints, whose lines are cut


PAGES = {"docs/reference/config": settings, "docs/reference/records": records, "docs/reference/cli": commands}
