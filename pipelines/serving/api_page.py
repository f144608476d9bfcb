"""The OpenAPI document as a page for people; it has no script, and loads nothing."""

from __future__ import annotations

import re

import jinja2
from markupsafe import Markup, escape

from miner.records import Json


def api_page(document: Json) -> str:
    """HTML of an OpenAPI document."""
    return _PAGE.render(**document["info"], paths=document["paths"])


def marked(text: str) -> Markup:
    """A docstring as HTML: what stands in backticks is code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def kind_of(schema: Json) -> str:
    """What a value may be, in a few words."""
    if "anyOf" in schema:
        kinds = [kind_of(each) for each in schema["anyOf"] if each.get("type") != "null"]
        return " or ".join(kinds)
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if schema.get("format") == "binary":
        return "the image's bytes"
    words = [str(schema.get("type", "anything"))]
    if schema.get("type") == "array":
        words = [f"list of {kind_of(schema['items'])}"]
    limits = {"minimum": "at least", "maximum": "at most", "maxLength": "at most"}
    for name, said in limits.items():
        if name in schema:
            unit = " characters" if name == "maxLength" else ""
            words.append(f"{said} {schema[name]:g}{unit}")
    return ", ".join(words)


_TEMPLATES = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_TEMPLATES.filters |= {"marked": marked, "kind_of": kind_of}

_PAGE = _TEMPLATES.from_string(
    """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}: the API</title>
<style>
  :root { color-scheme: light dark; }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto;
         padding: 0 1rem; }
  h2 { margin-top: 2.5rem; border-top: 1px solid #8886; padding-top: 1rem; font-size: 1.15rem; }
  h3 { font-size: 1rem; margin-bottom: 0; }
  code, h2 { font-family: ui-monospace, monospace; }
  table { border-collapse: collapse; }
  td { padding: .15rem 1.5rem .15rem 0; vertical-align: top; }
  .kind { opacity: .7; }
</style>
<h1>{{ title }} {{ version }}</h1>
<p>{{ description }} The whole of it, for programs: <a href="openapi.json">openapi.json</a>.</p>
{% macro rows(fields) %}
<table>
{% for name, schema, description in fields %}
<tr><td><code>{{ name }}</code><td class="kind">{{ schema | kind_of }}
{%- if schema.get("default") is not none %}; default {{ schema.default }}{% endif %}
<td>{{ description | marked }}
{% endfor %}
</table>
{% endmacro %}
{% macro answers(responses) %}
{% for status, answer in responses.items() %}
<tr><td><code>{{ status }}</code><td>{{ answer.description | marked }}
{% endfor %}
{% endmacro %}
{% for path, methods in paths.items() %}
{% for method, route in methods.items() %}
<h2>{{ method | upper }} {{ path }}</h2>
<p>{{ route.summary }}. {{ route.get("description", "") | marked }}</p>
{% if route.get("parameters") %}
<h3>Parameters</h3>
{% set fields = [] %}
{% for each in route.parameters %}
{% set _ = fields.append((each.name, each.schema, each.get("description", ""))) %}
{% endfor %}
{{ rows(fields) }}
{% endif %}
{% for kind, body in route.get("requestBody", {}).get("content", {}).items() %}
<h3>Body: {{ kind }}</h3>
{% if "properties" in body.schema %}
{% set fields = [] %}
{% for name, field in body.schema.properties.items() %}
{% set _ = fields.append((name, field, field.get("description", ""))) %}
{% endfor %}
{{ rows(fields) }}
{% else %}
<p>{{ body.schema | kind_of }}</p>
{% endif %}
{% endfor %}
<h3>Answers</h3>
<table>
{{ answers(route.responses) }}
</table>
{% endfor %}
{% endfor %}
</html>
"""
)
