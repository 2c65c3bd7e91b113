"""A gRPC servicer from a descriptor: what every call goes through around the service's own method.

deadline, trace, caller, permission, validation, unit (key, method, events, answer), refusal as status.
A service's class has one method per RPC, named in snake_case, that takes the request and a Unit and answers a message.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg
import grpc
from foyer import options_pb2
from google.api import annotations_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from chassis import logs, metrics, tracing
from chassis.access import CALLER_METADATA, Caller, CallerTokens
from chassis.codec import descriptor_of
from chassis.errors import PROBLEM_METADATA, FieldError, Refusal, grpc_status, invalid, to_wire
from chassis.projections import Projections
from chassis.rules import violations
from chassis.unit import IdempotencyKey, Store, Unit

KEY_METADATA = "foyer-idempotency-key"
IF_MATCH_METADATA = "foyer-if-match"
LANGUAGE_METADATA = "accept-language"
MOST_DEADLINE_SECONDS = 30.0
ATTEMPTS = 4
RETRIED = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
READ_NAME = re.compile(r"^(Get|List|Find|Read|Preview|Verify)")

NOBODY_MAY_SEE = "nobody"
NOBODY = Caller("", "nobody", "", "")

T = TypeVar("T")
Method = Callable[[Any, Any], Awaitable[Message]]
log = logs.logger(__name__)


def snake_case(name: str) -> str:
    """CreateBooking → create_booking."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def outside_unit(method: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    """Mark an RPC that must do slow or remote work before its transaction: it gets a Call instead of a Unit."""
    method.outside_unit = True  # type: ignore[attr-defined]
    return method


@dataclass(slots=True)
class Call:
    """What an RPC marked `outside_unit` gets: the caller, and the way to a transaction."""

    caller: Caller
    store: Store
    language: str
    _runner: Runner
    _key_of: Callable[[Caller], IdempotencyKey | None]
    _if_match: int | None

    async def run(self, work: Callable[[Unit], Awaitable[Message]], caller: Caller | None = None) -> Any:
        """Do the work in a unit of its own, with idempotency and retries as any other call has them.

        `caller`: on whose behalf, where the call itself belongs to no chain. Its key then counts among that caller's,
        unless that is a service: one stands for many, whose keys would meet.
        """
        behalf = caller or self.caller
        stranger = not self.caller.chain_id and not behalf.is_service
        key = self._key_of(behalf if stranger else self.caller)
        return await self._runner.in_unit(work, behalf, key, self._if_match, read_only=False)


class Runner:
    """Runs work in units: retries conflicts, fetches absent projections, repeats stored answers."""

    def __init__(self, name: str, store: Store, projections: Projections) -> None:
        self._name = name
        self.store = store
        self._projections = projections

    async def in_unit(
        self,
        work: Callable[[Unit], Awaitable[Message]],
        caller: Caller,
        key: IdempotencyKey | None,
        if_match: int | None,
        *,
        read_only: bool,
    ) -> Message | bytes:
        """The answer of `work`, or the bytes of the answer that was given before to the same key."""

        async def once() -> Message | bytes:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    return await self._attempt(work, caller, key, if_match, read_only, attempt)
                except RETRIED as conflict:
                    metrics.RETRIES.labels(self._name, type(conflict).__name__).inc()
                    if attempt == ATTEMPTS:
                        raise
                    await asyncio.sleep(0.005 * 2**attempt * (0.5 + random.random()))  # noqa: S311
            raise Refusal("UNAVAILABLE")

        return await self._projections.complete(once, caller)

    async def _attempt(
        self,
        work: Callable[[Unit], Awaitable[Message]],
        caller: Caller,
        key: IdempotencyKey | None,
        if_match: int | None,
        read_only: bool,
        attempt: int,
    ) -> Message | bytes:
        unit = self.store.open(caller, if_match=if_match, read_only=read_only)
        unit.attempt, unit.is_repeatable = attempt, attempt < ATTEMPTS
        try:
            if key is None:
                answer = await work(unit)
                if await unit.commit():
                    self.store.on_events()
                return answer
            stored = await unit.claim(key)
            if stored is not None:
                return stored
            answer = await work(unit)
            if await unit.commit((key, without_secrets(answer).SerializeToString())):
                self.store.on_events()
            return answer
        finally:
            await unit.close()


@functools.cache
def _secrets(descriptor: Descriptor) -> tuple[str, ...]:
    return tuple(
        field.name
        for field in descriptor.fields
        if field.GetOptions().Extensions[options_pb2.sensitive].permission == NOBODY_MAY_SEE
    )


def without_secrets(answer: Message) -> Message:
    """An answer as it may be stored: a secret that is told once, in the first answer, is not in it."""
    names = _secrets(descriptor_of(answer))
    if not names:
        return answer
    stored = type(answer)()
    stored.CopyFrom(answer)
    for name in names:
        stored.ClearField(name)
    return stored


class Rpc:
    """One RPC: its rules, read from the descriptor once."""

    def __init__(
        self, descriptor: MethodDescriptor, method: Method, service: str, runner: Runner, tokens: CallerTokens
    ) -> None:
        option = descriptor.GetOptions().Extensions[options_pb2.rpc]
        http: Any = descriptor.GetOptions().Extensions[annotations_pb2.http]  # type: ignore[index]
        self.name = f"{descriptor.containing_service.full_name}/{descriptor.name}"
        self.short_name = descriptor.name
        self.rule = option
        self.read_only = bool(http.get) if http.WhichOneof("pattern") else bool(READ_NAME.match(descriptor.name))
        self.has_branch = "branch_id" in descriptor.input_type.fields_by_name
        self.outside = getattr(method, "outside_unit", False)
        self.method = method
        self.service = service
        self.runner = runner
        self.tokens = tokens

    async def handle(  # noqa: RET503 - abort always raises
        self, received: tuple[bytes, Message], context: grpc.aio.ServicerContext[Any, Any]
    ) -> Any:
        """Answer a call."""
        started = time.perf_counter()
        metadata = dict(context.invocation_metadata() or ())
        left: float | None = context.time_remaining()  # None, whatever the stubs say, when the caller set no deadline
        deadline = MOST_DEADLINE_SECONDS if left is None else min(left, MOST_DEADLINE_SECONDS)
        with tracing.span(self.name, kind="server", parent=_text(metadata, "traceparent")):
            try:
                async with asyncio.timeout(deadline):
                    answer = await self._answer(received[0], received[1], metadata)
                self._observe("OK", started)
                return answer
            except Refusal as problem:
                refusal = problem
            except asyncio.CancelledError:
                self._observe("CANCELLED", started)
                raise
            except Exception as problem:  # the last place that can turn it into an answer
                refusal = self._unexpected(problem)
            self._observe(refusal.code, started)
            await context.abort(grpc_status(refusal), refusal.code, ((PROBLEM_METADATA, to_wire(refusal)),))

    def _observe(self, code: str, started: float) -> None:
        seconds = time.perf_counter() - started
        metrics.observe_rpc(self.service, self.short_name, code, seconds)
        if logs.tells_debug():
            log.debug("call", method=self.name, code=code, milliseconds=round(seconds * 1000, 2))

    async def _answer(self, raw: bytes, request: Message, metadata: dict[str, Any]) -> Message | bytes:
        caller = self._caller(metadata)
        self._check_permission(caller, request)
        errors = violations(request)
        if errors:
            raise invalid(*errors)
        if_match = _if_match(metadata)
        method = self.method
        if self.outside:
            language = _text(metadata, LANGUAGE_METADATA) or caller.language
            call = Call(
                caller, self.runner.store, language, self.runner, lambda one: self._key(metadata, one, raw), if_match
            )
            return await method(request, call)
        key = self._key(metadata, caller, raw)
        return await self.runner.in_unit(
            lambda unit: method(request, unit), caller, key, if_match, read_only=self.read_only
        )

    def _caller(self, metadata: dict[str, Any]) -> Caller:
        token = _text(metadata, CALLER_METADATA)
        if token is None:
            if self.rule.open:
                return NOBODY
            raise Refusal("UNAUTHENTICATED")
        return self.tokens.verify(token)

    def _check_permission(self, caller: Caller, request: Message) -> None:
        rule = self.rule
        if rule.open or (caller.is_service and (rule.internal or rule.permission or rule.signed_in)):
            return
        if rule.signed_in and caller.chain_id:
            return
        permission = rule.permission
        if rule.internal or not permission or not caller.may(permission):
            raise Refusal("PERMISSION_DENIED", permission=permission or "internal")
        if self.has_branch:
            branches = caller.branches(permission)
            branch_id: str = request.branch_id  # type: ignore[attr-defined]
            if branches is not None and branch_id and branch_id not in branches:
                raise Refusal("PERMISSION_DENIED", permission=permission)

    def _key(self, metadata: dict[str, Any], caller: Caller, raw: bytes) -> IdempotencyKey | None:
        key = _text(metadata, KEY_METADATA)
        if key is None or self.read_only or not caller.chain_id:
            return None
        return IdempotencyKey(caller.id, key, self.short_name, hashlib.sha256(raw).digest())

    def _unexpected(self, problem: Exception) -> Refusal:
        """The refusal for what nobody foresaw; only what the caller cannot help is logged."""
        if isinstance(problem, TimeoutError | asyncpg.QueryCanceledError):
            return Refusal("DEADLINE_EXCEEDED")
        if isinstance(problem, RETRIED) or is_unavailable(problem):
            log.warning("database away", method=self.name, problem=repr(problem)[:300])
            return Refusal("UNAVAILABLE")
        log.error("call failed", method=self.name, exc_info=problem)
        return Refusal("INTERNAL")


def is_unavailable(problem: BaseException) -> bool:
    """Whether an error says that the database is away, and not that something was wrong with the statement."""
    kinds = (
        asyncpg.PostgresConnectionError,
        asyncpg.CannotConnectNowError,
        asyncpg.AdminShutdownError,
        asyncpg.CrashShutdownError,
        asyncpg.TooManyConnectionsError,
        asyncpg.InternalClientError,
        asyncpg.InterfaceError,
        OSError,
    )
    # A wrong argument is an InterfaceError too, and a ValueError; a missing file is an OSError.
    return isinstance(problem, kinds) and not isinstance(problem, ValueError | FileNotFoundError)


def _text(metadata: dict[str, Any], name: str) -> str | None:
    value = metadata.get(name)
    return value if isinstance(value, str) and value else None


def _if_match(metadata: dict[str, Any]) -> int | None:
    text = _text(metadata, IF_MATCH_METADATA)
    if text is None:
        return None
    if not text.isdigit():
        error = FieldError("If-Match", "version", "must be an ETag of this thing", "必须是该资源的 ETag")
        raise invalid(error)
    return int(text)


def _serialize(answer: Message | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def _deserializer(message_type: type[Message]) -> Callable[[bytes], tuple[bytes, Message]]:
    def deserialize(raw: bytes) -> tuple[bytes, Message]:
        try:
            return raw, message_type.FromString(raw)
        except DecodeError as problem:
            raise ValueError("not a message of this type") from problem

    return deserialize


def generic_handler(
    descriptor: ServiceDescriptor, servicer: object, service: str, runner: Runner, tokens: CallerTokens
) -> grpc.GenericRpcHandler:
    """The gRPC handler of a service. Raises AttributeError when the servicer lacks a method of the contract."""
    handlers = {}
    for method in descriptor.methods:
        rpc = Rpc(method, getattr(servicer, snake_case(method.name)), service, runner, tokens)
        handlers[method.name] = grpc.unary_unary_rpc_method_handler(
            rpc.handle,
            request_deserializer=_deserializer(message_factory.GetMessageClass(method.input_type)),
            response_serializer=_serialize,
        )
    return grpc.method_handlers_generic_handler(descriptor.full_name, handlers)
