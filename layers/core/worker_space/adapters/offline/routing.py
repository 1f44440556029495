"""Which agent a request fits: its words against what is said of each agent, scored as context search scores."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from worker_space.adapters.offline.grammar import HEAD
from worker_space.adapters.offline.requests import Recall, Remember
from worker_space.adapters.offline.understanding import understand
from worker_space.adapters.offline.wording import Quoted, paths_in, polite_core
from worker_space.decisions import Candidate
from worker_space.lexical import score, tokens

__all__ = ["Choice", "choose"]

_MOST_CHARACTERS: Final = 4_000
_MOST_NAMED: Final = 4

# Words that ask for the same: who has one of them in a request is looked up under the words behind it too.
_SYNONYMS: Final[tuple[tuple[str, str], ...]] = (
    (
        "review analyse analyze analysis check audit inspect examine assess evaluate investigate critique count measure"
        " verify proofread",
        "review analyse check report",
    ),
    ("compare difference diff", "compare analyse"),
    ("search find grep locate list look", "search"),
    ("data csv statistics outlier column row table", "data"),
    ("explain understand read show describe open print", "read explain"),
    (
        "fix debug repair solve bug error crash refactor implement optimise optimize build rewrite rename move delete"
        " remove replace program develop test",
        "fix bugs write change edit code",
    ),
    ("code function class method script module api endpoint feature library", "code"),
    (
        "document readme doc docs documentation docstring changelog guide tutorial manual article text note letter"
        " email blog post essay announcement description wording translation page",
        "write documentation text notes",
    ),
    ("write create draft compose add make append save store author", "write"),
    ("summarise summarize summary shorten translate polish rephrase draft", "summarise text"),
    ("plan roadmap step schedule milestone strategy organise organize prioritise prioritize break estimate", "plan"),
)
_EXPANSIONS: Final = tuple((frozenset(tokens(words)), expansion) for words, expansion in _SYNONYMS)
# Verbs that go with anything: they count by their like alone ("find the bug" is no search for risks).
_VAGUE: Final = frozenset(("find", "look", "list", "get", "give", "tell", "show", "make", "do"))
_PLACING: Final = frozenset(("delete", "remove", "move", "rename"))
_DOCUMENTS: Final = next(triggers for triggers, expansion in _EXPANSIONS if "documentation" in expansion)
_KINDS: Final = (
    (re.compile(r"(?i)\.(?:py|js|ts|tsx|go|rs|java|c|cpp|h|rb|sh|sql|html|css|toml|yaml|yml)$"), "code"),
    (re.compile(r"(?i)\.(?:md|txt|rst|adoc)$|(?:^|/)(?:readme|changelog|notice|license)$"), "documentation"),
    (re.compile(r"(?i)\.(?:csv|tsv|json|jsonl|xlsx|parquet)$"), "data"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An agent and why.

    Attributes:
        fits: False where nothing speaks for any agent, and the first one was taken.
        named: The request names the agent.
    """

    agent: Candidate
    reason: str
    fits: bool = True
    named: bool = False


def choose(request: str, agents: Sequence[Candidate]) -> Choice:
    """The agent that fits a request best; of equals the first."""
    if len(agents) == 1:
        return Choice(agent=agents[0], reason="It is the project's only agent.")
    head = HEAD.match(request)
    # What follows a head is a text to store, whatever it says.
    request = request[:_MOST_CHARACTERS] if head is None or not head[0].endswith("\n") else head[0]
    if all(isinstance(each, Remember | Recall) for each in understand(request)):
        # Each agent has a memory of its own: what is told to one is not found by another.
        return Choice(agent=agents[0], reason="What is to be remembered is told to one agent, the first.")
    addressed = next((agent for agent in agents if _names(request, agent)), None)
    if addressed is not None:
        return Choice(agent=addressed, reason=f"The request names {addressed.name}.", named=True)
    documents = [" ".join((agent.name, agent.role, agent.description, *agent.capabilities)) for agent in agents]
    terms = [set(tokens(document)) for document in documents]
    # What is said of every agent speaks for none.
    shared = set.intersection(*terms)
    words, kinds = _words(request)
    words = [word for word in words if not set(tokens(word)) <= shared]
    own = [" ".join((agent.name, agent.role, *agent.capabilities)) for agent in agents]

    def fit(query: str) -> list[float]:
        """What an agent is made for speaks louder than what its description mentions."""
        return [
            2.0 * made_for + mentioned
            for made_for, mentioned in zip(score(query, own), score(query, documents), strict=True)
        ]

    # The words of the request, and once more the first, what is to be done; and for each what is said in other words.
    named = [word for word in words if word.lower() not in _VAGUE]
    named_or_alike = [fit(" ".join([*named, *kinds])), fit(" ".join(word for word in words[:1] if word in named))]
    for expansion in [*_expansions([*words, *kinds]), *_expansions(words[:1])]:
        named_or_alike.append([max(values) for values in zip(*map(fit, expansion.split()), strict=True)])
    scores = [sum(values) for values in zip(*named_or_alike, strict=True)]
    best = max(range(len(agents)), key=lambda place: (scores[place], -place))
    if scores[best] <= 0.0:
        return Choice(
            agent=agents[0],
            reason="Nothing in the request matches an agent's role or capabilities: the first agent takes it.",
            fits=False,
        )
    return Choice(agent=agents[best], reason=_reason(agents[best], [*words, *kinds], terms[best]))


def _names(request: str, agent: Candidate) -> bool:
    name = re.escape(agent.name)
    return bool(
        re.search(
            rf"(?i)(?<!\w)@{name}(?!\w)|^\s*(?:the\s+)?{name}\s*[:,]\s"
            rf"|\b(?:ask|tell|let|have|use|by)\s+(?:(?:the|our|my)\s+)?{name}\b"
            rf"|\bthe\s+{name}\s+(?:should|must|can|could|shall|may|is to|has to|needs to)\b",
            request,
        )
    )


def _words(request: str) -> tuple[list[str], list[str]]:
    """The request's meaningful words, each once, and the kinds of its files; quoted texts count for nothing."""
    quoted = Quoted.take(polite_core(request))
    text = quoted.text
    kinds: list[str] = []
    for path in paths_in(text, quoted):
        text = text.replace(path, " ")
        kinds += [kind for pattern, kind in _KINDS if pattern.search(path)]
    words = list(dict.fromkeys(word for word in re.findall(r"[^\W\d][\w-]*", text) if tokens(word)))
    # Whoever deletes or renames a file need not know what is in it; and what is written about it is a text of its own.
    beside_the_point = (bool(words) and words[0].lower() in _PLACING) or bool(_DOCUMENTS & set(tokens(" ".join(words))))
    return words, [] if beside_the_point else list(dict.fromkeys(kinds))


def _expansions(words: Sequence[str]) -> list[str]:
    """The synonyms of these words, one text for each group."""
    terms = set(tokens(" ".join(words)))
    return [expansion for triggers, expansion in _EXPANSIONS if triggers & terms]


def _reason(agent: Candidate, words: Sequence[str], known: set[str]) -> str:
    fitting = [word for word in words if set(tokens(" ".join([word, *_expansions([word])]))) & known]
    shown = ", ".join(f"“{word}”" for word in fitting[:_MOST_NAMED])
    return f"{shown} {'fit' if len(fitting) > 1 else 'fits'} what is said of {agent.name}."
