"""Templates: what may stand in one, and that nothing gets out of one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.notify.domain import VARIABLES, sample_facts, variables_of
from services.notify.readymade import readymade
from services.notify.rendering import LONGEST_SUBJECT, TemplateProblem, problems, render

EVENT = "booking.confirmed"
SAMPLE = variables_of(EVENT, sample_facts(EVENT, "en"), "en")


def test_every_ready_made_template_can_be_used() -> None:
    assert len(readymade()) == len(VARIABLES) * 2 * 2
    for (event_type, _, language), text in readymade().items():
        assert problems(event_type, language, text.subject, text.body) == []


def test_every_ready_made_template_can_do_without_what_may_be_missing() -> None:
    for (event_type, _, language), text in readymade().items():
        made = render(event_type, text.subject, text.body, variables_of(event_type, {}, language))
        assert made.body
        assert "None" not in made.body


def test_variables_and_conditions() -> None:
    body = "{% if staff.name and not booking.price %}no{% elif staff.name %}With {{ staff.name }}{% else %}-{% endif %}"
    assert render(EVENT, "Hello {{ customer.name }}", body, SAMPLE).body == "With Robin"


@pytest.mark.parametrize(
    "body",
    [
        "{{ customer.phone }}",
        "{{ customer }}",
        "{{ secret }}",
        "{{ wallet.available }}",
        "{{ customer.name.__class__.__mro__ }}",
        "{{ ''.__class__ }}",
        "{{ customer['name'] }}",
        "{{ 'a' * 1000000000 }}",
        "{{ 7 * 7 }}",
        "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
        "{% set x = 1 %}{{ x }}",
        "{% include '/etc/passwd' %}",
        "{% macro m() %}{% endmacro %}{{ m() }}",
        "{{ customer.name|upper }}",
        "{{ self }}",
        "{{ customer.name() }}",
        "{{ customer.name",
        "{% if customer.name %}never closed",
        "{{ cycler.__init__.__globals__.os }}",
        "   ",
        "{% if booking.cancel_reason is defined %}x{% endif %}",
    ],
)
def test_nothing_else_is_let_through(body: str) -> None:
    found = problems(EVENT, "en", "Subject", body)
    assert [error.field for error, _ in found] == ["body"]
    assert found[0][0].message
    assert found[0][0].message_zh


def test_all_problems_at_once() -> None:
    found = problems(EVENT, "en", "Hello {{ nobody.name }}", "{{ nothing.here }}")
    assert [error.field for error, _ in found] == ["subject", "body"]
    assert [culprit for _, culprit in found] == ["{{ nobody.name }}", "{{ nothing.here }}"]
    assert "customer.name" in found[0][0].message


def test_a_subject_is_one_line() -> None:
    assert [error.field for error, _ in problems(EVENT, "en", "One\nBcc: everybody@example.com", "Text")] == ["subject"]
    name = {**SAMPLE, "customer": {"name": "Eve\r\nBcc: everybody@example.com"}}
    made = render(EVENT, "Hello {{ customer.name }}", "Text", name)
    assert made.subject == "Hello Eve Bcc: everybody@example.com"


def test_a_text_is_bounded() -> None:
    long = {**SAMPLE, "customer": {"name": "x" * 500}}
    assert len(render(EVENT, "{{ customer.name }}", "Text", long).subject) == LONGEST_SUBJECT
    with pytest.raises(TemplateProblem):
        render(EVENT, "Subject", "{{ customer.name }}" * 200, long)


def test_data_is_not_a_template() -> None:
    name = {**SAMPLE, "customer": {"name": "{{ chain.name }}{% if %}"}}
    assert render(EVENT, "Subject", "{{ customer.name }}", name).body == "{{ chain.name }}{% if %}"


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_is_either_used_or_refused(subject: str, body: str) -> None:
    if not problems(EVENT, "en", subject, body):
        made = render(EVENT, subject, body, SAMPLE)
        assert len(made.subject.splitlines()) <= 1
