"""Whatever is sent to any operation: no 5xx, no status and no body that the OpenAPI document does not tell of."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tools.running import Running

EXAMPLES = 8
LONG_EXAMPLES = 200
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
LEAST_OPERATIONS = 150


@pytest.mark.timeout(1200)
def test_every_operation(platform: Running, long_run: bool) -> None:
    # The stream of events never ends by itself; tests/flow/test_main_job.py reads it.
    schema = schemathesis.openapi.from_url(f"{platform.gateway}/openapi.json").exclude(path="/v1/events")
    headers = {"Authorization": f"Bearer {platform.demo['other_api_key']}"}
    tried = 0
    problems: list[str] = []
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        tried += 1

        @settings(
            max_examples=LONG_EXAMPLES if long_run else EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def send(case: Any) -> None:
            response = case.call(base_url=platform.gateway, headers=headers, timeout=30)
            case.validate_response(response, checks=CHECKS)

        try:
            send()
        except Exception as problem:  # all of them are told together
            problems.append(f"{operation.label}: {problem!r} {problem}")
    assert not problems, "\n\n".join(problems)
    assert tried >= LEAST_OPERATIONS
