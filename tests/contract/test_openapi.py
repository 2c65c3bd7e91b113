"""The OpenAPI document: valid, whole, up to date in docs/, and a client generated from it works."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate

from chassis import errors
from gateway import contract, openapi
from tools import documents
from tools.running import Running

DOCUMENT: dict[str, Any] = json.loads(openapi.document_bytes())
OPERATIONS = [(path, verb, operation) for path, item in DOCUMENT["paths"].items() for verb, operation in item.items()]


def named(value: Any) -> str:
    return str(value.get("operationId", "")) if isinstance(value, dict) else str(value)


def resolve(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        found: Any = DOCUMENT
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def test_the_document_is_valid() -> None:
    validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1")


def test_every_operation_of_the_contract_is_there_once() -> None:
    ids = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(ids) == len(set(ids))
    assert {operation.name for operation in contract.operations()} <= set(ids)
    by_hand = {"ReadCalendarFeed", "StreamEvents", "ReceivePaymentCallback", "ShowSandboxPayment", "PaySandboxPayment"}
    assert set(ids) - {operation.name for operation in contract.operations()} == by_hand


@pytest.mark.parametrize(("path", "verb", "operation"), OPERATIONS, ids=named)
def test_an_operation_tells_what_it_needs_and_how_it_may_answer(
    path: str, verb: str, operation: dict[str, Any]
) -> None:
    assert operation["summary"]
    assert operation["tags"]
    statuses = set(operation["responses"])
    assert {"422", "429", "503", "504"} <= statuses
    if operation["security"]:
        assert {"401", "403"} <= statuses
    if "{" in path:
        assert "404" in statuses
    if "application/json" in operation.get("requestBody", {}).get("content", {}) and "hooks" not in path:
        assert {"400", "413", "415"} <= statuses
    told = {parameter["name"] for parameter in map(resolve, operation["parameters"]) if parameter["in"] == "path"}
    assert told == set(contract.PARAMETER.findall(path))
    for parameter in map(resolve, operation["parameters"]):
        assert parameter["schema"]
        assert parameter.get("description") or parameter["in"] == "header", f"{parameter['name']} has no comment"


def test_created_things_answer_201_and_versions_are_etags() -> None:
    create = DOCUMENT["paths"]["/v1/bookings"]["post"]
    assert set(create["responses"]) >= {"201", "409"}
    assert "ETag" in create["responses"]["201"]["headers"]
    assert "304" in DOCUMENT["paths"]["/v1/customers/{id}"]["get"]["responses"]
    patch = DOCUMENT["paths"]["/v1/customers/{id}"]["patch"]
    assert "412" in patch["responses"]
    assert {"If-Match", "Idempotency-Key"} <= {resolve(each)["name"] for each in patch["parameters"]}


def test_refusals_carry_their_members() -> None:
    conflict = DOCUMENT["paths"]["/v1/bookings"]["post"]["responses"]["409"]
    assert "SLOT_TAKEN" in conflict["description"]
    choices = conflict["content"]["application/problem+json"]["schema"]["anyOf"]
    taken = resolve(choices[0])
    assert taken["properties"]["nearest"]["items"] == {"$ref": "#/components/schemas/Slot"}
    for code in ("SLOT_TAKEN", "INSUFFICIENT_FUNDS"):
        assert errors.RULES[code].member


def test_requests_tell_what_is_required_and_take_no_more() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    request = schemas["CreateBookingRequest"]
    assert set(request["required"]) == {"branch_id", "customer_id", "starts_at"}
    assert request["additionalProperties"] is False
    assert request["properties"]["branch_id"]["format"] == "uuid"
    assert request["properties"]["note"]["type"] == ["string", "null"]
    assert schemas["UpdateCustomerRequest"]["properties"]["notes"]["type"] == "string", "null would be ambiguous"
    assert "id" not in schemas["UpdateCustomerRequest"]["properties"], "it stands in the path"
    assert set(schemas["Money"]["required"]) == {"amount", "currency"}
    assert schemas["Booking"]["properties"]["status"]["enum"][0] == "held"
    series = {each["name"]: each for each in map(resolve, DOCUMENT["paths"]["/v1/reports/series"]["get"]["parameters"])}
    assert series["from"]["required"]
    assert "month" in series["interval"]["schema"]["enum"]


def test_permissions_are_scopes() -> None:
    assert DOCUMENT["paths"]["/v1/bookings"]["post"]["security"] == [{"bearer": ["bookings.write"]}]
    assert DOCUMENT["paths"]["/v1/auth/token"]["post"]["security"] == []
    assert DOCUMENT["paths"]["/v1/me"]["get"]["security"] == [{"bearer": []}]


def test_lists_can_be_had_as_tables() -> None:
    content = DOCUMENT["paths"]["/v1/customers"]["get"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/csv"}


def test_the_documents_in_docs_are_up_to_date() -> None:
    assert documents.stale() == [], "run `python -m tools.documents`"


def test_events_are_all_in_the_asyncapi_document() -> None:
    document = documents.asyncapi()
    addresses = {channel["address"] for channel in document["channels"].values()}
    assert addresses == {f"ev.{{chain_id}}.{name}" for name in contract.events()}
    confirmed = document["components"]["messages"]["BookingConfirmed"]
    assert confirmed["payload"] == {"$ref": "#/components/schemas/BookingConfirmed"}


@pytest.fixture(scope="module")
def client_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A client generated by openapi-python-client."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "openapi.json").write_bytes(openapi.document_bytes())
    (folder / "config.yml").write_text("post_hooks: []\nproject_name_override: foyer_client\n")
    command = [str(Path(sys.executable).parent / "openapi-python-client"), "generate"]
    command += ["--path", "openapi.json", "--config", "config.yml", "--meta", "none", "--output-path", "foyer_client"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower(), done.stdout
    return folder


def test_a_generated_client_works(client_folder: Path, platform: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(client_folder))
    client_module = importlib.import_module("foyer_client")
    models = importlib.import_module("foyer_client.models")
    create = importlib.import_module("foyer_client.api.customers.create_customer")
    read = importlib.import_module("foyer_client.api.customers.get_customer")
    listed = importlib.import_module("foyer_client.api.customers.list_customers")
    charge = importlib.import_module("foyer_client.api.wallet.charge_wallet")
    with client_module.AuthenticatedClient(base_url=platform.gateway, token=platform.demo["api_key"]) as client:
        made = create.sync(client=client, body=models.CreateCustomerRequest(name="生成的客户端", phone="13800138000"))
        assert made.name == "生成的客户端"
        found = read.sync(id=made.id, client=client)
        assert (found.id, found.phone) == (made.id, "13800138000")
        assert made.id in [each.id for each in listed.sync(client=client, query="生成的").customers]
        body = models.ChargeWalletRequest(amount=models.Money(amount=100, currency="CNY"), reason="tea")
        refused = charge.sync(customer_id=made.id, client=client, body=body)
        assert refused.code == "INSUFFICIENT_FUNDS"
        assert refused.available.amount == 0


def test_the_docs_page_asks_no_foreign_host(platform: Running) -> None:
    for path in ("/docs", "/docs.js"):
        answer = httpx.get(platform.gateway + path)
        assert answer.status_code == 200
        assert "://" not in answer.text.replace("http://www.w3.org", "")
    served = httpx.get(platform.gateway + "/openapi.json").json()
    assert served == DOCUMENT
