"""Templates: what may stand in one, and texts made from it.

A template is text with variables in double braces, and {% if variable %} ... {% else %} ... {% endif %}. Nothing else
of Jinja is let through, so that a template cannot run for long or grow without bound; it is rendered in Jinja's sandbox
all the same.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.sandbox import SandboxedEnvironment

from chassis.errors import FieldError
from services.notify.domain import VARIABLES, sample_facts, variables_of

LONGEST_SUBJECT = 200
LONGEST_BODY = 20_000
MOST_KEPT_TEMPLATES = 512

ALLOWED = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Name,
    nodes.Getattr,
    nodes.If,
    nodes.Not,
    nodes.And,
    nodes.Or,
)

# Plain text: nothing is HTML, so nothing is escaped as HTML.
_environment = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=False)


class TemplateProblem(Exception):
    """A template cannot be used; `culprit` is the part of it that is wrong, the texts say why."""

    def __init__(self, culprit: str, en: str, zh: str) -> None:
        super().__init__(f"{culprit}: {en}")
        self.culprit = culprit
        self.en = en
        self.zh = zh


@dataclass(frozen=True, slots=True)
class Rendered:
    """A text ready to be sent."""

    subject: str
    body: str


def render(event_type: str, subject: str, body: str, variables: Mapping[str, Mapping[str, str]]) -> Rendered:
    """Make a text of a template. Raises TemplateProblem."""
    allowed = VARIABLES[event_type]
    return Rendered(
        single_line(_render(subject, variables, allowed, LONGEST_BODY))[:LONGEST_SUBJECT],
        _render(body, variables, allowed, LONGEST_BODY).strip(),
    )


def single_line(text: str) -> str:
    """A text without line breaks and control characters: a subject cannot bring further headers."""
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text).strip()


def problems(event_type: str, language: str, subject: str, body: str) -> list[tuple[FieldError, str]]:
    """What is wrong with a template, each with the part that is: all at once. None: it can be used."""
    found = []
    variables = variables_of(event_type, sample_facts(event_type, language), language)
    for field, text in (("subject", subject), ("body", body)):
        try:
            if field == "subject" and len(text.splitlines()) > 1:
                raise TemplateProblem("subject", "must be a single line", "标题必须是单行")
            if not _render(text, variables, VARIABLES[event_type], LONGEST_BODY).strip():
                raise TemplateProblem(field, "says nothing", "内容为空")
        except TemplateProblem as problem:
            found.append((FieldError(field, "bad_template", problem.en, problem.zh), problem.culprit))
    return found


def _render(text: str, variables: Mapping[str, Mapping[str, str]], allowed: Sequence[str], longest: int) -> str:
    parts: list[str] = []
    size = 0
    try:
        for part in _compile(text, tuple(allowed)).generate(variables):
            parts.append(part)
            size += len(part)
            if size > longest:
                raise TemplateProblem("…", f"makes more than {longest} characters", f"生成的文本超过 {longest} 个字符")
    except TemplateError as error:
        raise TemplateProblem(type(error).__name__, "cannot be filled in", "无法填充变量") from error
    return "".join(parts)


@functools.lru_cache(MOST_KEPT_TEMPLATES)
def _compile(text: str, allowed: tuple[str, ...]) -> Template:
    """A template that was checked. Raises TemplateProblem."""
    try:
        tree = _environment.parse(text)
    except TemplateSyntaxError as error:
        line = f"line {error.lineno}"
        raise TemplateProblem(line, f"is not a template: {error.message}", f"第 {error.lineno} 行语法错误") from None
    for used in _used(tree):
        if used not in allowed:
            names = ", ".join(allowed)
            en, zh = f"{used} is not a variable of this event; it has {names}", f"该事件没有变量 {used}，可用：{names}"
            raise TemplateProblem(f"{{{{ {used} }}}}", en, zh)
    return _environment.from_string(tree)


def _used(node: nodes.Node) -> Iterator[str]:
    """Paths of the variables below a node. Raises TemplateProblem for anything else than variables and conditions."""
    if not isinstance(node, ALLOWED):
        culprit = f"line {node.lineno}"
        en = "only variables in double braces and {% if variable %} are allowed"
        raise TemplateProblem(culprit, en, "只允许使用双花括号变量和 {% if 变量 %}")
    if isinstance(node, nodes.Getattr | nodes.Name):
        yield _path(node)
        return
    for child in node.iter_child_nodes():
        yield from _used(child)


def _path(node: nodes.Node) -> str:
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.Getattr):
        return f"{_path(node.node)}.{node.attr}"
    return "…"
