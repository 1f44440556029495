"""What the routes need, as `bootstrap` composes it; nothing in it belongs to a tenant."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from worker_space.allowances import Allowances
from worker_space.approvals import Approvals
from worker_space.context import AgentContext
from worker_space.erasure import Erasures
from worker_space.exporting import Exporter
from worker_space.importing import Importer
from worker_space.ledger import Ledger
from worker_space.lifecycle import Projects
from worker_space.plan_requests import PlanRequests
from worker_space.planning import PlanBook
from worker_space.ports import Files, Records
from worker_space.settings import Settings
from worker_space.space import Collaborators
from worker_space.texts import Texts
from worker_space.tools.tool import Patterns

__all__ = ["Services"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The collaborators of one environment (event loop).

    Attributes:
        dependencies: For `/ready`: by name, a call that asks the dependency for a sign of life.
    """

    settings: Settings
    allowances: Allowances
    records: Records
    files: Files
    texts: Texts
    ledger: Ledger
    projects: Projects
    erasures: Erasures
    exporter: Exporter
    importer: Importer
    approvals: Approvals
    plans: PlanBook
    plan_requests: PlanRequests
    context: AgentContext
    patterns: Patterns
    collaborators: Collaborators
    dependencies: Mapping[str, Callable[[], Awaitable[None]]]
