"""What a user can ask the offline model for."""

from dataclasses import dataclass

__all__ = [
    "Append",
    "Compose",
    "Delete",
    "FindFiles",
    "Help",
    "ListFiles",
    "Look",
    "Marks",
    "Move",
    "Overview",
    "Plan",
    "Recall",
    "Remember",
    "Replace",
    "Request",
    "Search",
    "Show",
    "Unknown",
    "Write",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Analyse a file. `words` may name what in it matters; `review` asks for findings."""

    path: str
    words: frozenset[str] = frozenset()
    review: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """Show lines of a file; a negative `first` counts from its end."""

    path: str
    first: int = 1
    last: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFiles:
    """List the files below a folder, or those that match a pattern."""

    folder: str = ""
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class Overview:
    """Say what the project holds."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Find TODO and FIXME."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Find a text; `exact` minds its case, as names in code do."""

    text: str
    place: str = ""
    exact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FindFiles:
    """Say where files of a name, or of a glob, lie."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """Store a file. `content` is the text, or the request whose answer is the text; `None` is the answer before."""

    path: str
    content: "str | Request | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """Add a text at the end of a file."""

    path: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace:
    """Exchange a text in one file; an empty `new` takes it away."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Give a file another path."""

    path: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Take files away."""

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remember:
    """Keep a note."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Say what is remembered of a topic."""

    topic: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Order the steps towards a goal."""

    goal: str


@dataclass(frozen=True, slots=True)
class Help:
    """Say what the offline model can do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compose:
    """Something only a language model can write; `path` is an existing file it may be about."""

    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Nothing that the rules know; `path` is a file that the message names."""

    path: str | None = None


Request = (
    Look
    | Show
    | ListFiles
    | Overview
    | Marks
    | Search
    | FindFiles
    | Write
    | Append
    | Replace
    | Move
    | Delete
    | Remember
    | Recall
    | Plan
    | Help
    | Compose
    | Unknown
)
