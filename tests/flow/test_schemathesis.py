"""Whatever is sent to any operation: no 5xx, no status and no body that the OpenAPI document does not tell of."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tools.running import Running

EXAMPLES = 8
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="session")
def api_schema(platform: Running) -> Any:
    # The stream of events never ends by itself; tests/flow/test_main_job.py reads it.
    return schemathesis.openapi.from_url(f"{platform.gateway}/openapi.json").exclude(path="/v1/events")


schema = schemathesis.pytest.from_fixture("api_schema")


@pytest.mark.timeout(600)
@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_operation(case: Any, platform: Running) -> None:
    headers = {"Authorization": f"Bearer {platform.demo['other_api_key']}"}
    response = case.call(base_url=platform.gateway, headers=headers, timeout=30)
    case.validate_response(response, checks=CHECKS)
