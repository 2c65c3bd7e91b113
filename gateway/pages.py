"""The few pages the gateway shows: the API's documentation and the sandbox provider's payment page. No foreign host."""

from __future__ import annotations

HTML = "text/html; charset=utf-8"
CONTENT_POLICY = (
    b"default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
DOCS_CONTENT_POLICY = (
    b"default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; "
    b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

STYLE = """
:root { color-scheme: light dark; font-family: system-ui, "PingFang SC", "Microsoft YaHei", sans-serif; }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; line-height: 1.5; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
details { border: 1px solid #8884; border-radius: .4rem; margin: .4rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; } code, pre { font-family: ui-monospace, monospace; font-size: .85rem; }
pre { overflow-x: auto; background: #8881; padding: .6rem; border-radius: .4rem; }
.verb { display: inline-block; min-width: 4.2rem; font-weight: 600; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .15rem .8rem .15rem 0; vertical-align: top; }
input { width: 100%; font: inherit; padding: .4rem; box-sizing: border-box; }
button { font: inherit; padding: .5rem 1.2rem; margin-right: .6rem; }
"""

_SANDBOX = """<!doctype html>
<html lang="{{lang}}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{style}</style></head><body>
<h1>{title}</h1>
<p>{explanation}</p>
<table><tr><th>{payment}</th><td><code>{{payment_id}}</code></td></tr>
<tr><th>{amount}</th><td>{{amount}}</td></tr>
<tr><th>{status}</th><td>{{status}}</td></tr></table>
<form method="post" action="/v1/sandbox/payments/{{payment_id}}:pay">
<p><button name="paid" value="true"{{disabled}}>{pay}</button>
<button name="paid" value="false"{{disabled}}>{turn_away}</button></p>
</form></body></html>
"""


def _sandbox(language: str, **texts: str) -> str:
    style = STYLE.replace("{", "{{").replace("}", "}}")
    return _SANDBOX.format(style=style, **texts).replace("{lang}", language)


SANDBOX_PAGE = {
    "en": _sandbox(
        "en",
        title="Sandbox payment",
        explanation="This is the built-in test provider. No money moves.",
        payment="Payment",
        amount="Amount",
        status="State",
        pay="Pay",
        turn_away="Turn away",
    ),
    "zh": _sandbox(
        "zh-CN",
        title="沙箱支付",
        explanation="这是内置的测试支付渠道，不会产生真实扣款。",
        payment="支付编号",
        amount="金额",
        status="状态",
        pay="支付",
        turn_away="放弃支付",
    ),
}

DOCS_PAGE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Foyer API</title><style>{STYLE}</style></head><body>
<h1>Foyer API</h1>
<p id="about"></p>
<p>The whole description: <a href="/openapi.json">/openapi.json</a> (OpenAPI 3.1), for client generators and tools.</p>
<p><input id="search" placeholder="Search operations / 搜索接口" aria-label="Search"></p>
<main id="operations"></main>
<script src="/docs.js"></script>
</body></html>
"""

DOCS_SCRIPT = r"""
"use strict";
const make = (name, text, parent, attributes) => {
  const element = document.createElement(name);
  if (text) element.textContent = text;
  for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
  if (parent) parent.append(element);
  return element;
};
const resolve = (api, schema) => schema && schema.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema;
const typeOf = (schema) => {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.anyOf || schema.oneOf) return (schema.anyOf || schema.oneOf).map(typeOf).join(" | ");
  if (schema.type === "array" || (Array.isArray(schema.type) && schema.type.includes("array")))
    return "list of " + typeOf(schema.items);
  return [].concat(schema.type || "any").join(" | ") + (schema.format ? " (" + schema.format + ")" : "");
};
const fields = (api, schema, parent) => {
  const whole = resolve(api, schema);
  if (!whole || !whole.properties) { make("p", typeOf(schema), parent); return; }
  const table = make("table", "", parent);
  for (const [name, field] of Object.entries(whole.properties)) {
    const row = make("tr", "", table);
    make("code", name + ((whole.required || []).includes(name) ? " *" : ""), make("td", "", row));
    make("td", typeOf(field), row);
    make("td", field.description || "", row);
  }
};
const show = (api) => {
  document.getElementById("about").textContent = api.info.description;
  const main = document.getElementById("operations");
  const groups = new Map();
  for (const [path, item] of Object.entries(api.paths))
    for (const [verb, operation] of Object.entries(item)) {
      const tag = (operation.tags || ["Other"])[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push([verb, path, operation]);
    }
  for (const [tag, operations] of groups) {
    const section = make("section", "", main);
    make("h2", tag, section);
    for (const [verb, path, operation] of operations) {
      const details = make("details", "", section, {"data-text": (path + " " + operation.summary).toLowerCase()});
      const summary = make("summary", "", details);
      make("span", verb.toUpperCase(), summary, {class: "verb"});
      make("code", path, summary);
      make("span", "  " + operation.summary, summary);
      if (operation.description) make("p", operation.description, details);
      const scopes = (operation.security || []).flatMap((each) => Object.values(each).flat());
      if (scopes.length) make("p", "Permission: " + [...new Set(scopes)].join(", "), details);
      const parameters = (operation.parameters || []).map((each) =>
        each.$ref ? api.components.parameters[each.$ref.split("/").pop()] : each);
      if (parameters.length) {
        make("h4", "Parameters", details);
        const table = make("table", "", details);
        for (const parameter of parameters) {
          const row = make("tr", "", table);
          make("code", parameter.name + (parameter.required ? " *" : ""), make("td", "", row));
          make("td", parameter.in + ", " + typeOf(parameter.schema), row);
          make("td", parameter.description || "", row);
        }
      }
      const body = operation.requestBody && Object.values(operation.requestBody.content)[0];
      if (body) { make("h4", "Body", details); fields(api, body.schema, details); }
      make("h4", "Answers", details);
      for (const [status, each] of Object.entries(operation.responses)) {
        const response = each.$ref ? api.components.responses[each.$ref.split("/").pop()] : each;
        make("p", status + "  " + response.description, details);
        const content = response.content && response.content["application/json"];
        if (content) fields(api, content.schema, details);
      }
    }
  }
  document.getElementById("search").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    for (const each of document.querySelectorAll("details")) each.hidden = !each.dataset.text.includes(wanted);
  });
};
fetch("/openapi.json").then((answer) => answer.json()).then(show);
"""
