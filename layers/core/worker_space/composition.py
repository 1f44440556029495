"""Puts the collaborators together over any set of ports: `bootstrap` with the real adapters, tests with others."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from worker_space.agents import AgentConfig
from worker_space.api.services import Services
from worker_space.bus import AgentBus
from worker_space.context import AgentContext
from worker_space.dispatch import Dispatch
from worker_space.execution import Execution
from worker_space.ids import new_project_id
from worker_space.jobs.dead_letter import DeadLetters
from worker_space.jobs.settling import Settling
from worker_space.jobs.sweep import Sweeper
from worker_space.jobs.task_worker import TaskWorker
from worker_space.ledger import Ledger
from worker_space.lifecycle import Projects
from worker_space.ports import Cache, Content, ContextStore, DueItems, Files, Model, Queues, Records
from worker_space.registry import AgentRegistry
from worker_space.sessions import ChatSessions
from worker_space.settings import Settings
from worker_space.space import Collaborators
from worker_space.starters import STARTERS
from worker_space.tenancy import Names
from worker_space.texts import Texts
from worker_space.tools.catalogue import check_names
from worker_space.tools.tool import Patterns

__all__ = ["Parts", "Ports", "compose"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """One implementation of each port."""

    records: Records
    due: DueItems
    cache: Cache
    queues: Queues
    memory: ContextStore
    files: Files
    content: Content
    model: Model
    patterns: Patterns
    dependencies: Mapping[str, Callable[[], Awaitable[None]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the entry points use."""

    services: Services
    dispatch: Dispatch
    worker: TaskWorker
    sweeper: Sweeper
    dead_letters: DeadLetters


def compose(ports: Ports, settings: Settings) -> Parts:
    """The whole system over these ports."""

    def check_config(config: AgentConfig) -> None:
        check_names(config.tools)
        ports.model.check(config.model)

    texts = Texts(ports.content)
    registry = AgentRegistry(
        ports.records, ports.cache, check_config=check_config, default_model=settings.default_model
    )
    ledger = Ledger(
        ports.records,
        redispatch_seconds=settings.redispatch_seconds,
        lease_seconds=settings.worker_timeout_seconds + settings.visibility_seconds,
        max_attempts=settings.max_attempts,
    )
    dispatch = Dispatch(records=ports.records, queues=ports.queues, registry=registry, names=Names(settings.prefix))
    bus = AgentBus(
        records=ports.records, cache=ports.cache, dispatch=dispatch, texts=texts, registry=registry, ledger=ledger
    )
    context = AgentContext(ports.memory, ports.records)
    projects = Projects(
        records=ports.records,
        registry=registry,
        queues=ports.queues,
        memory=ports.memory,
        content=ports.content,
        starters=STARTERS,
        make_id=new_project_id,
    )
    settling = Settling(records=ports.records, bus=bus, dispatch=dispatch, context=context, texts=texts)
    worker = TaskWorker(
        records=ports.records,
        queues=ports.queues,
        files=ports.files,
        model=ports.model,
        patterns=ports.patterns,
        texts=texts,
        context=context,
        registry=registry,
        ledger=ledger,
        bus=bus,
        settling=settling,
        visibility_seconds=settings.visibility_seconds,
        max_model_calls=settings.max_model_calls,
    )
    services = Services(
        settings=settings,
        records=ports.records,
        files=ports.files,
        texts=texts,
        ledger=ledger,
        projects=projects,
        context=context,
        patterns=ports.patterns,
        collaborators=Collaborators(
            registry=registry,
            bus=bus,
            context=context,
            execution=Execution(bus, texts),
            sessions=ChatSessions(ports.records, texts, ports.content, bus),
        ),
        dependencies=ports.dependencies,
    )
    return Parts(
        services=services,
        dispatch=dispatch,
        worker=worker,
        sweeper=Sweeper(due=ports.due, bus=bus, settling=settling, ledger=ledger, projects=projects),
        dead_letters=DeadLetters(records=ports.records, bus=bus, settling=settling),
    )
