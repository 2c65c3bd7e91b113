"""`foyer`: what operators and owners do from a command line. `foyer --help` lists it; docs/import.md explains imports.

The API key comes from --api-key-file, --api-key or the environment's FOYERCLI_API_KEY. That is not FOYER_..., as every
such name is a setting of the platform's processes, and an unknown one a mistake.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from foyer.access.v1 import access_pb2, access_pb2_grpc
from rich.console import Console
from rich.table import Table

from chassis.access import CallerTokens
from chassis.client import Clients
from chassis.errors import Refusal, problem
from chassis.ids import new_id
from chassis.settings import PREFIX, SERVICES, Settings, SettingsError
from chassis.unit import system_caller
from tools.home import Home
from tools.importing import telling
from tools.importing.client import Gateway, Refused, Stopped
from tools.importing.journal import Journal, JournalError
from tools.importing.mapping import MappingError, load_mapping
from tools.importing.planning import Plan, make_plan
from tools.importing.runner import PARALLEL, Outcome, Runner, read_chain

DEFAULT_GATEWAY = "http://127.0.0.1:8080"
LARGEST_KEY_FILE_BYTES = 10_000
MOST_DEAD_LETTERS = 1_000
PASSWORD_BYTES = 15
CREATE_CHAIN_SECONDS = 10.0
WRONG_ROWS, WRONG_USE, INTERRUPTED = 1, 2, 130

Answer = TypeVar("Answer")

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Commands of the Foyer platform.")
chain_app = typer.Typer(no_args_is_help=True, help="Chains of this installation.")
wallet_app = typer.Typer(no_args_is_help=True, help="Stored money.")
letters_app = typer.Typer(no_args_is_help=True, help="Events that a service could not handle.")
app.add_typer(chain_app, name="chain")
app.add_typer(wallet_app, name="wallet")
app.add_typer(letters_app, name="dead-letters")

GatewayUrl = Annotated[
    str, typer.Option("--gateway", envvar="FOYERCLI_GATEWAY", help="Base URL of the gateway.", show_default=True)
]
ApiKey = Annotated[
    str, typer.Option("--api-key", envvar="FOYERCLI_API_KEY", show_default=False, help="API key of the chain.")
]
ApiKeyFile = Annotated[
    Path | None, typer.Option("--api-key-file", help="File that holds the API key: others cannot see it in `ps`.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("import")
def import_folder(
    folder: Annotated[Path, typer.Argument(help="Folder of CSV or Excel files.", exists=True, file_okay=False)],
    mapping: Annotated[Path, typer.Option(help="YAML file that tells what is what.", exists=True, dir_okay=False)],
    gateway: GatewayUrl = DEFAULT_GATEWAY,
    api_key: ApiKey = "",
    api_key_file: ApiKeyFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, send nothing.")] = False,
    resume_file: Annotated[
        Path | None,
        typer.Option(help="Journal of what is made already; <mapping>-<chain>.journal here when not given."),
    ] = None,
    refused_file: Annotated[
        Path | None, typer.Option(help="CSV of refused rows; <mapping>.refused.csv here when not given.")
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Requests at a time.")] = PARALLEL,
    as_json: AsJson = False,
) -> None:
    """Load a folder of exports through the gateway; run it again to go on where it ended.

    Exit code 0: every row was taken; 1: some were refused; 2: it could not be done; 130: it was interrupted.
    """
    errors = Console(stderr=True)
    try:
        plan = make_plan(load_mapping(mapping), folder)
    except MappingError as wrong:
        _fail(errors, f"The mapping has {len(wrong.problems)} mistakes:", *wrong.problems)
    outcome: Outcome | None = None
    if not dry_run:
        key = _api_key(errors, api_key, api_key_file)
        try:
            outcome = _import(plan, gateway, key, resume_file, parallel, errors)
        except (Stopped, JournalError) as stopped:
            _fail(errors, f"Stopped: {stopped}")
        except KeyboardInterrupt:
            errors.print("Interrupted. Run the same command again to go on.")
            raise typer.Exit(INTERRUPTED) from None
    refused = telling.all_refused(plan, outcome)
    target = refused_file or Path(f"{plan.mapping.name}.refused.csv")
    written = telling.write_refused(target, refused)
    if as_json:
        print(json.dumps(telling.summary(plan, outcome), ensure_ascii=False, indent=2))
    else:
        telling.show(plan, outcome, Console())
    if written:
        errors.print(f"The refused rows are in {target}", soft_wrap=True)
        raise typer.Exit(WRONG_ROWS)


def _import(plan: Plan, url: str, api_key: str, resume_file: Path | None, parallel: int, console: Console) -> Outcome:
    """Make what the plan holds and the journal does not."""
    with Gateway(url, api_key) as gateway:
        chain_id = str(read_chain(gateway, plan)["id"])
        path = resume_file or Path(f"{plan.mapping.name}-{chain_id[-12:]}.journal")
        with Journal(path, chain_id, plan.mapping.name) as journal, telling.progress(plan, console) as told:
            return Runner(plan, gateway, journal, told, parallel).run()


@chain_app.command("create")
def create_chain(
    name: Annotated[str, typer.Option(help="Name of the chain.")],
    owner_name: Annotated[str, typer.Option(help="Name of its owner.")],
    owner_email: Annotated[str, typer.Option(help="E-mail the owner signs in with.")],
    currency: Annotated[str, typer.Option(help="ISO 4217 code of its money.")] = "CNY",
    time_zone: Annotated[str, typer.Option(help="IANA time zone.")] = "Asia/Shanghai",
    language: Annotated[str, typer.Option(help="zh or en.")] = "zh",
    owner_password_file: Annotated[
        Path | None, typer.Option(help="File that holds the owner's password; one is made and told when not given.")
    ] = None,
) -> None:
    """Open a chain with its owner and a first API key, and print them as JSON: the secrets are told this once.

    Run it where the platform runs: it takes FOYER_SECRET and FOYER_SERVICE_ADDRESS, or finds them in FOYER_HOME.
    """
    errors = Console(stderr=True)
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    if owner_password_file is not None:
        password = _read_secret(errors, owner_password_file)
    request = access_pb2.CreateChainRequest(
        name=name,
        time_zone=time_zone,
        currency=currency,
        language=language,
        owner_name=owner_name,
        owner_email=owner_email,
        owner_password=password,
    )
    try:
        created = asyncio.run(_create_chain(_settings(errors), request))
    except Refusal as refused:
        told = problem(refused)[1]
        details = [f"{error['field']}: {error['message']}" for error in told.get("errors", [])]
        _fail(errors, f"{told['code']}: {told['detail']}", *details)
    owner = {"email": created.owner.email, "password": password}
    chain = {"id": created.chain.id, "name": created.chain.name, "currency": created.chain.currency}
    print(json.dumps({"chain": chain, "owner": owner, "api_key": created.api_key.secret}, ensure_ascii=False, indent=2))


async def _create_chain(settings: Settings, request: access_pb2.CreateChainRequest) -> access_pb2.CreatedChain:
    clients = Clients(settings, CallerTokens(settings.secret))
    try:
        created: access_pb2.CreatedChain = await clients.write(
            "access",
            access_pb2_grpc.AccessStub,
            "CreateChain",
            request,
            caller=system_caller("foyer", ""),
            idempotency_key=new_id(),
            deadline_seconds=CREATE_CHAIN_SECONDS,
        )
        return created
    finally:
        await clients.close()


def _settings(errors: Console) -> Settings:
    """Where the services are and the secret that opens them; of a local platform both are in its home folder."""
    try:
        environ = dict(os.environ)
        settings = Settings.from_environment(environ)
        home = Home(settings.home.expanduser().absolute())
        if not settings.secret and (home.path / "secrets.json").exists():
            environ[f"{PREFIX}SECRET"] = home.secrets()["platform"]
            environ.setdefault(f"{PREFIX}SERVICE_ADDRESS", f"unix:{home.sockets()}/{{service}}.sock")
        return Settings.from_environment(environ, needs=["secret"])
    except SettingsError as wrong:
        _fail(errors, "The settings are wrong:", *wrong.problems)


@wallet_app.command("verify")
def verify_books(
    gateway: GatewayUrl = DEFAULT_GATEWAY,
    api_key: ApiKey = "",
    api_key_file: ApiKeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Check that all balances are the sums of their entries. Exit code 1 when they are not."""
    errors = Console(stderr=True)
    report = _call(errors, gateway, _api_key(errors, api_key, api_key_file), _read_books)
    if as_json:
        print(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        balanced = report.get("balanced", False)
        accounts, postings = report.get("account_count", 0), report.get("posting_count", 0)
        print(f"{'balanced' if balanced else 'NOT BALANCED'}: {accounts} accounts, {postings} postings")
        for name in ("wrong_account_ids", "wrong_transaction_ids"):
            for wrong_id in report.get(name, []):
                print(f"  {name.removesuffix('_ids').replace('_', ' ')}: {wrong_id}")
    if not report.get("balanced"):
        raise typer.Exit(WRONG_ROWS)


def _read_books(gateway: Gateway) -> dict[str, Any]:
    return gateway.get("/v1/wallet-books")


@letters_app.command("list")
def list_dead_letters(
    service: Annotated[str, typer.Option(help="Only this service.")] = "",
    gateway: GatewayUrl = DEFAULT_GATEWAY,
    api_key: ApiKey = "",
    api_key_file: ApiKeyFile = None,
    as_json: AsJson = False,
) -> None:
    """List events that a service could not handle, newest first."""
    errors = Console(stderr=True)
    services = _services(errors, service)

    def read(client: Gateway) -> list[dict[str, Any]]:
        return [letter for name in services for letter in _dead_letters(client, name)]

    letters = _call(errors, gateway, _api_key(errors, api_key, api_key_file), read)
    if as_json:
        print(json.dumps(letters, ensure_ascii=False, indent=2))
        return
    table = Table("service", "id", "event", "attempts", "put aside", "handled", "reason")
    for letter in letters:
        names = ("service", "id", "type", "attempts", "dead_at", "handled_at", "reason")
        table.add_row(*(str(letter.get(name, "")) for name in names))
    Console().print(table if letters else "No dead letters.")


@letters_app.command("replay")
def replay_dead_letters(
    service: Annotated[str, typer.Option(help="The service whose dead letters they are.")],
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of the events.", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that are still dead, oldest first.")] = False,
    gateway: GatewayUrl = DEFAULT_GATEWAY,
    api_key: ApiKey = "",
    api_key_file: ApiKeyFile = None,
) -> None:
    """Hand dead letters to their service once more. Exit code 1 when one of them failed again."""
    errors = Console(stderr=True)
    name = _services(errors, service)[0]
    if bool(ids) == everything:
        _fail(errors, "Name ids, or --all.")

    def replay(client: Gateway) -> int:
        wanted = list(ids or [])
        if everything:
            letters = _dead_letters(client, name)
            wanted = [letter["id"] for letter in reversed(letters) if not letter.get("handled_at")]
        failed = 0
        for letter_id in wanted:
            path = f"/v1/operations/{name}/dead-letters/{letter_id}:replay"
            letter = client.post(path, {}, f"replay-{new_id()}")
            handled = bool(letter.get("handled_at"))
            failed += not handled
            print(f"{letter_id} {'handled' if handled else 'failed again: ' + str(letter.get('reason', ''))}")
        print(f"{len(wanted) - failed} handled, {failed} failed again")
        return failed

    if _call(errors, gateway, _api_key(errors, api_key, api_key_file), replay):
        raise typer.Exit(WRONG_ROWS)


def _dead_letters(gateway: Gateway, service: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    token = ""
    while len(found) < MOST_DEAD_LETTERS:
        parameters = {"page_size": 200, **({"page_token": token} if token else {})}
        page = gateway.get(f"/v1/operations/{service}/dead-letters", parameters)
        found += [{"service": service, **letter} for letter in page.get("dead_letters", [])]
        token = page.get("next_page_token", "")
        if not token:
            break
    return found[:MOST_DEAD_LETTERS]


def _services(errors: Console, service: str) -> list[str]:
    if service and service not in SERVICES:
        _fail(errors, f"--service: {service!r} is none of {', '.join(SERVICES)}")
    return [service] if service else list(SERVICES)


def _call(errors: Console, url: str, api_key: str, work: Callable[[Gateway], Answer]) -> Answer:
    """Run some calls of the gateway; ends the command when they are refused."""
    try:
        with Gateway(url, api_key, patience_seconds=10.0) as gateway:
            return work(gateway)
    except (Refused, Stopped) as told:
        _fail(errors, str(told))


def _api_key(errors: Console, api_key: str, api_key_file: Path | None) -> str:
    key = _read_secret(errors, api_key_file) if api_key_file is not None else api_key.strip()
    if not key:
        _fail(errors, "An API key is needed: --api-key-file, --api-key or FOYERCLI_API_KEY.")
    if not key.isascii() or not key.isprintable():
        _fail(errors, "The API key holds characters that none has.")
    return key


def _read_secret(errors: Console, path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(LARGEST_KEY_FILE_BYTES).strip()
    except (OSError, UnicodeDecodeError) as wrong:
        _fail(errors, f"{path}: {wrong}")


def _fail(errors: Console, *lines: str) -> NoReturn:
    for number, line in enumerate(lines):
        errors.print(("  " if number else "") + line, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(WRONG_USE)


def main() -> None:
    """Run the command line."""
    app(prog_name="foyer")


if __name__ == "__main__":
    main()
