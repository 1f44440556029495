"""Puts the collaborators together over any set of ports: `bootstrap` with the real adapters, tests with others."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from worker_space.agents import AgentConfig
from worker_space.allowances import Allowances
from worker_space.api.services import Services
from worker_space.approvals import Approvals
from worker_space.bus import AgentBus
from worker_space.cleanup import Cleanup
from worker_space.construction import Construction
from worker_space.context import AgentContext
from worker_space.dispatch import Dispatch
from worker_space.erasure import ERASURE_SHARD, Erasures
from worker_space.erasure_pass import Stores
from worker_space.execution import Execution
from worker_space.exporting import Exporter
from worker_space.forgetting import Forgetting
from worker_space.hibernation import Hibernation
from worker_space.ids import new_project_id
from worker_space.importing import Importer
from worker_space.jobs.dead_letter import DeadLetters
from worker_space.jobs.finishing import Finishing
from worker_space.jobs.orchestration import Orchestration
from worker_space.jobs.orchestrator import Orchestrator
from worker_space.jobs.overdue import OverdueReservations, OverdueSpaces, OverdueTasks
from worker_space.jobs.reconcile import Reconciler
from worker_space.jobs.settling import Settling
from worker_space.jobs.sweep import Sweeper
from worker_space.jobs.task_worker import TaskWorker
from worker_space.ledger import Ledger
from worker_space.lifecycle import Projects
from worker_space.plan_requests import PlanRequests
from worker_space.planning import PlanBook
from worker_space.ports import (
    Cache,
    Content,
    ContextStore,
    DueItems,
    Files,
    FoundQueues,
    Model,
    Queues,
    Records,
    SpacesByToken,
)
from worker_space.projects import SPACE_SHARDS
from worker_space.registry import AgentRegistry
from worker_space.reset import Reset
from worker_space.runtimes import AgentRuntimes
from worker_space.sessions import ChatSessions
from worker_space.settings import Settings
from worker_space.space import Collaborators
from worker_space.starters import STARTERS
from worker_space.stored_files import MeteredFiles
from worker_space.tasks import DUE_SHARDS
from worker_space.tenancy import Key, Names, TenantContext
from worker_space.texts import Texts
from worker_space.tools.catalogue import check_names
from worker_space.tools.tool import Patterns
from worker_space.usage import Budget
from worker_space.vitals import Vitals

__all__ = ["Parts", "Ports", "compose"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """One implementation of each port."""

    records: Records
    due: DueItems
    spaces: SpacesByToken
    cache: Cache
    queues: Queues
    inventory: FoundQueues
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
    reconciler: Reconciler
    dead_letters: DeadLetters


def compose(ports: Ports, settings: Settings) -> Parts:
    """The whole system over these ports."""

    def check_config(config: AgentConfig) -> None:
        check_names(config.tools)
        ports.model.check(config.model)

    texts = Texts(ports.content)
    allowances = Allowances(settings)
    registry = AgentRegistry(
        ports.records,
        ports.cache,
        check_config=check_config,
        allowances=allowances,
        default_model=settings.default_model,
    )
    ledger = Ledger(
        ports.records,
        redispatch_seconds=settings.redispatch_seconds,
        lease_seconds=settings.worker_timeout_seconds + settings.visibility_seconds,
        max_attempts=settings.max_attempts,
    )

    async def file_limit(tenant: TenantContext) -> int | None:
        space = (await registry.home(tenant)).space
        return allowances.of(space.limits, space.operator_limits).file_bytes

    files = MeteredFiles(ports.files, ports.records, limit_of=file_limit)
    runtimes = AgentRuntimes(ports.records)
    dispatch = Dispatch(
        records=ports.records,
        queues=ports.queues,
        registry=registry,
        runtimes=runtimes,
        names=Names(settings.prefix),
        idle_seconds=settings.idle_seconds,
    )
    plans = PlanBook(ports.records)
    bus = AgentBus(
        records=ports.records,
        cache=ports.cache,
        dispatch=dispatch,
        texts=texts,
        registry=registry,
        ledger=ledger,
        plans=plans,
        allowances=allowances,
    )
    context = AgentContext(ports.memory, ports.records)
    hibernation = Hibernation(
        records=ports.records, queues=ports.queues, registry=registry, idle_seconds=settings.idle_seconds
    )
    reset = Reset(
        records=ports.records, bus=bus, registry=registry, ledger=ledger, texts=texts, hibernation=hibernation
    )
    cleanup = Cleanup(records=ports.records, bus=bus, registry=registry, runtimes=runtimes, hibernation=hibernation)
    vitals = Vitals(
        records=ports.records, cache=ports.cache, queues=ports.queues, memory=ports.memory, files=ports.files
    )
    stores = Stores(
        records=ports.records,
        cache=ports.cache,
        queues=ports.queues,
        memory=ports.memory,
        content=ports.content,
        files=ports.files,
    )
    erasures = Erasures(records=ports.records, stores=stores, again_seconds=settings.erase_again)
    projects = Projects(
        records=ports.records,
        registry=registry,
        queues=ports.queues,
        memory=ports.memory,
        content=ports.content,
        starters=STARTERS,
        make_id=new_project_id,
        allowances=allowances,
    )
    budget = Budget(
        ports.records, allowances, hold_seconds=settings.worker_timeout_seconds + settings.visibility_seconds
    )
    settling = Settling(records=ports.records, bus=bus, dispatch=dispatch, context=context, texts=texts, plans=plans)
    finishing = Finishing(bus=bus, ledger=ledger, plans=plans, settling=settling)
    orchestrator = Orchestrator(
        models=ports.model,
        texts=texts,
        registry=registry,
        ledger=ledger,
        plans=plans,
        allowances=allowances,
        model=settings.default_model,
        approval_tasks=settings.plan_approval_tasks,
        approval_seconds=settings.approval_seconds,
    )
    worker = TaskWorker(
        records=ports.records,
        queues=ports.queues,
        files=files,
        model=ports.model,
        patterns=ports.patterns,
        texts=texts,
        context=context,
        registry=registry,
        ledger=ledger,
        bus=bus,
        settling=settling,
        orchestration=Orchestration(
            records=ports.records,
            texts=texts,
            ledger=ledger,
            plans=plans,
            orchestrator=orchestrator,
            finishing=finishing,
            budget=budget,
        ),
        finishing=finishing,
        plans=plans,
        budget=budget,
        visibility_seconds=settings.visibility_seconds,
        max_model_calls=settings.max_model_calls,
        approval_seconds=settings.approval_seconds,
    )
    approvals = Approvals(ports.records, bus, texts)
    forgetting = Forgetting(
        records=ports.records,
        memory=ports.memory,
        run_seconds=settings.worker_timeout_seconds + settings.visibility_seconds,
    )
    sessions = ChatSessions(
        ports.records, texts, ports.content, bus, plans=plans, allowances=allowances, forgetting=forgetting
    )
    overdue_tasks = OverdueTasks(records=ports.records, bus=bus, settling=settling, ledger=ledger, approvals=approvals)
    overdue_spaces = OverdueSpaces(records=ports.records, projects=projects, hibernation=hibernation, reset=reset)
    services = Services(
        settings=settings,
        allowances=allowances,
        records=ports.records,
        files=files,
        texts=texts,
        ledger=ledger,
        projects=projects,
        erasures=erasures,
        exporter=Exporter(
            records=ports.records, texts=texts, content=ports.content, memory=ports.memory, files=ports.files
        ),
        importer=Importer(
            construction=Construction(records=ports.records, projects=projects, allowances=allowances),
            texts=texts,
            memory=ports.memory,
            allowances=allowances,
            check_config=check_config,
            make_id=new_project_id,
        ),
        approvals=approvals,
        plans=plans,
        plan_requests=PlanRequests(
            records=ports.records,
            bus=bus,
            plans=plans,
            registry=registry,
            sessions=sessions,
            approvals=approvals,
            texts=texts,
        ),
        context=context,
        patterns=ports.patterns,
        collaborators=Collaborators(
            registry=registry,
            runtimes=runtimes,
            bus=bus,
            context=context,
            execution=Execution(bus, texts),
            cleanup=cleanup,
            reset=reset,
            vitals=vitals,
            sessions=sessions,
        ),
        dependencies=ports.dependencies,
    )
    return Parts(
        services=services,
        dispatch=dispatch,
        worker=worker,
        reconciler=Reconciler(
            inventory=ports.inventory,
            spaces=ports.spaces,
            queues=ports.queues if settings.pool is None else None,
            names=Names(settings.prefix),
            orphan_seconds=settings.orphan_seconds,
        ),
        sweeper=_sweeper(ports, overdue_tasks, overdue_spaces, erasures, budget, forgetting),
        dead_letters=DeadLetters(records=ports.records, bus=bus, settling=settling),
    )


def _sweeper(
    ports: Ports,
    tasks: OverdueTasks,
    spaces: OverdueSpaces,
    erasures: Erasures,
    budget: Budget,
    forgetting: Forgetting,
) -> Sweeper:
    return Sweeper(
        due=ports.due,
        handlers={
            Key.tasks().kind: tasks.see_to,
            Key.space().kind: spaces.see_to,
            Key.erasures().kind: erasures.see_to,
            Key.all_reservations().kind: OverdueReservations(budget).see_to,
            Key.forgettings().kind: forgetting.see_to,
        },
        shards=(*DUE_SHARDS, *SPACE_SHARDS, ERASURE_SHARD),
    )
