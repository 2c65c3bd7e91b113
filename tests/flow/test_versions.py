"""Whatever the OpenAPI document says takes If-Match, takes it: a version that is not the current one answers 412."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import pytest

from tests.flow.conftest import Shop
from tests.flow.test_isolation import SAMPLES, body_for, everything

IF_MATCH = {"$ref": "#/components/parameters/IfMatch"}
NO_VERSION = '"999999999"'
# Nothing is named by its id there: a code is looked up first, a link's token stands for a booking.
ELSEWHERE = ("/v1/branches/{branch_id}/check-ins", "/v1/self-service/")
LEAST_OPERATIONS = 45


@pytest.mark.timeout(180)
async def test_if_match_is_minded_wherever_it_is_documented(shop: Shop) -> None:
    ids = await everything(shop)
    document: dict[str, Any] = (await shop.api.get("/openapi.json")).json()
    own = {name: getattr(shop, name) for name in ("branch_id", "service_id", "customer_id", "staff_id")}
    tried = 0
    wrong = []
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            if path.startswith(ELSEWHERE) or IF_MATCH not in operation.get("parameters", ()):
                continue
            assert "412" in operation["responses"], f"{verb} {path}"
            tried += 1
            noun = re.split("[/:]", path)[2]
            url = _url(path, ids[noun]) if "{" in path else path
            body = body_for(document, operation, own)
            answer = await shop.api.request(verb, url, headers={"If-Match": NO_VERSION}, json=body)
            if answer.status_code != 412:
                wrong.append(f"{verb} {path}: {answer.status_code} {answer.text[:200]}")
    assert not wrong, "\n".join(wrong)
    assert tried >= LEAST_OPERATIONS


def _url(path: str, identifier: str) -> str:
    """The path with the id of a thing, and samples for what stands further on."""
    start, _, rest = path.partition("{")
    after = re.sub(r"\{(\w+)\}", lambda found: SAMPLES.get(found[1], str(uuid4())), rest.partition("}")[2])
    return start + identifier + after
