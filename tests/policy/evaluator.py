"""What AWS would say to a request under given policies: the part of IAM's logic that our documents use.

An explicit Deny wins; without an Allow everything is refused; a session policy can only take away.
(https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html)
Whatever is not understood here raises: a guess would make the tests that lean on it worthless.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Decision", "Document", "PolicyError", "Request", "decide", "may_assume"]

Document = Mapping[str, Any]
"""A policy document."""

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_VERSION = "2012-10-17"


class PolicyError(Exception):
    """A document says something that is not understood here."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What IAM is asked about.

    Attributes:
        action: Such as `s3:GetObject`.
        resource: An ARN, or `*` for actions that know none.
        context: Condition keys with their values, several for a key that may have several. What is not in it is absent.
    """

    action: str
    resource: str
    context: Mapping[str, str | Sequence[str]] = field(default_factory=dict)

    def values(self, key: str) -> Sequence[str] | None:
        """What a key holds; names of keys know no case. An empty list is like none."""
        for name, value in self.context.items():
            if name.casefold() == key.casefold():
                found = [value] if isinstance(value, str) else list(value)
                return found or None
        return None

    def several(self, key: str) -> bool:
        """Whether the key may hold several values."""
        return any(n.casefold() == key.casefold() and not isinstance(v, str) for n, v in self.context.items())


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether a request is allowed, and by which statement; where none speaks, `by` is empty."""

    allowed: bool
    by: str = ""


def decide(
    request: Request,
    identity: Sequence[Document],
    *,
    session: Sequence[Document] | None = None,
    resource: Sequence[Document] = (),
    principal: str = "",
) -> Decision:
    """The decision about a request by a role in its own account.

    Args:
        identity: The role's policies.
        session: Those that were given when the role was assumed; `None` limits nothing, an empty list everything.
        resource: The resource's own policies. Only what they deny counts: an Allow of theirs must not hide that the
            role's own are wrong.
        principal: The role's ARN, as resource policies name it.
    """
    for documents in (identity, session or (), resource):
        for statement, version in _statements(documents):
            if documents is resource and not _names_principal(statement, principal):
                continue
            if statement["Effect"] == "Deny" and _applies(statement, request, version):
                return Decision(allowed=False, by=_sid(statement))
    by = _allowing(identity, request)
    if by is None or (session is not None and _allowing(session, request) is None):
        return Decision(allowed=False)
    return Decision(allowed=True, by=by)


def may_assume(
    role_arn: str, tags: Mapping[str, str], *, caller: str, identity: Sequence[Document], trust: Document
) -> bool:
    """Whether a role may assume another with these session tags: by its own policies and by the other's trust."""
    context = {f"aws:RequestTag/{key}": value for key, value in tags.items()} | {"aws:TagKeys": list(tags)}
    actions = ["sts:AssumeRole", *(["sts:TagSession"] if tags else [])]
    for action in actions:
        request = Request(action=action, resource=role_arn, context=context)
        # A trust policy names no resource: it is its role's own.
        trusted = [
            {**statement, "Resource": "*"}
            for statement, _ in _statements([trust])
            if _names_principal(statement, caller)
        ]
        document = {"Version": trust.get("Version"), "Statement": trusted}
        if not (decide(request, identity).allowed and decide(request, [document]).allowed):
            return False
    return True


# -- statements ------------------------------------------------------------------------------------------------------


def _statements(documents: Sequence[Document]) -> Iterator[tuple[Mapping[str, Any], str]]:
    for document in documents:
        for statement in _listed(document["Statement"]):
            if strange := set(statement) - {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}:
                raise PolicyError(f"{_sid(statement)}: {', '.join(sorted(strange))} is not understood here")
            if statement["Effect"] not in ("Allow", "Deny"):
                raise PolicyError(f"{_sid(statement)}: an effect is Allow or Deny")
            # Without a version IAM reads the language of 2008.
            yield statement, str(document.get("Version") or "2008-10-17")


def _allowing(documents: Sequence[Document], request: Request) -> str | None:
    for statement, version in _statements(documents):
        if statement["Effect"] == "Allow" and _applies(statement, request, version):
            return _sid(statement)
    return None


def _applies(statement: Mapping[str, Any], request: Request, version: str) -> bool:
    variables = _Variables(request, version)
    return (
        any(_like(pattern, request.action, None, ignore_case=True) for pattern in _listed(statement["Action"]))
        and any(_is_resource(pattern, request.resource, variables) for pattern in _listed(statement["Resource"]))
        and all(
            _holds(operator, key, _listed(expected), request, variables)
            for operator, block in statement.get("Condition", {}).items()
            for key, expected in block.items()
        )
    )


def _names_principal(statement: Mapping[str, Any], principal: str) -> bool:
    given = statement["Principal"]
    if given == "*":
        return True
    names = [name for kind in given.values() for name in _listed(kind)]
    return "*" in names or principal in names


def _sid(statement: Mapping[str, Any]) -> str:
    return str(statement.get("Sid", "a statement without Sid"))


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


# -- patterns --------------------------------------------------------------------------------------------------------


class _UnsetError(Exception):
    """A policy variable has no single value in this request, so nothing matches."""


class _Variables:
    """The policy variables of a request: `${aws:PrincipalTag/tenant}`, `${*}`."""

    def __init__(self, request: Request, version: str) -> None:
        self._request = request
        self.understood = version == _VERSION

    def value(self, name: str) -> str:
        if name in ("*", "?", "$"):
            return name
        key, comma, default = name.partition(",")
        found = self._request.values(key.strip())
        if found is None and comma:
            return default.strip().strip("'")
        if found is None or self._request.several(key.strip()):
            raise _UnsetError
        return found[0]


def _expression(pattern: str, variables: _Variables | None, *, wild: bool = True) -> str:
    """A regular expression for a pattern. What a variable holds is taken literally, a `*` in it, too.

    Raises:
        _UnsetError: A variable has no value.
    """

    def plain(text: str) -> str:
        escaped = re.escape(text)
        return escaped.replace(r"\*", ".*").replace(r"\?", ".") if wild else escaped

    if variables is None or not variables.understood:
        return plain(pattern)
    parts, end = [], 0
    for found in _VARIABLE.finditer(pattern):
        parts += [plain(pattern[end : found.start()]), re.escape(variables.value(found[1]))]
        end = found.end()
    return "".join([*parts, plain(pattern[end:])])


def _like(
    pattern: str, value: str, variables: _Variables | None, *, ignore_case: bool = False, wild: bool = True
) -> bool:
    try:
        expression = _expression(pattern, variables, wild=wild)
    except _UnsetError:
        return False
    return re.fullmatch(expression, value, re.DOTALL | (re.IGNORECASE if ignore_case else 0)) is not None


def _is_arn(pattern: str, value: str, variables: _Variables) -> bool:
    """The parts of an ARN are compared one by one: a wildcard crosses no colon but those in the last part."""
    try:
        # Filled in first: a variable's own name holds a colon.
        expression = _expression(pattern.replace(":", "\0"), _Shielded(variables))
    except _UnsetError:
        return False
    patterns, values = expression.split("\0", 5), value.split(":", 5)
    if len(patterns) != 6 or len(values) != 6:
        return False
    return all(
        re.fullmatch(part.replace("\0", ":"), given, re.DOTALL) is not None
        for part, given in zip(patterns, values, strict=True)
    )


class _Shielded(_Variables):
    """Variables of a pattern whose colons are replaced."""

    def __init__(self, variables: _Variables) -> None:
        self._variables = variables
        self.understood = variables.understood

    def value(self, name: str) -> str:
        return self._variables.value(name.replace("\0", ":"))


def _is_resource(pattern: str, resource: str, variables: _Variables) -> bool:
    if pattern == "*":
        return True
    # What has no ARN is named by the wildcard alone.
    return resource != "*" and _is_arn(pattern, resource, variables)


# -- conditions ------------------------------------------------------------------------------------------------------

_Test = Callable[[str, str, _Variables], bool]


def _number(compare: Callable[[float, float], bool]) -> _Test:
    def test(pattern: str, value: str, _: _Variables) -> bool:
        try:
            return compare(float(value), float(pattern))
        except ValueError:
            return False

    return test


_TESTS: Mapping[str, _Test] = {
    "StringEquals": lambda pattern, value, variables: _like(pattern, value, variables, wild=False),
    "StringEqualsIgnoreCase": lambda pattern, value, variables: _like(
        pattern, value, variables, wild=False, ignore_case=True
    ),
    "StringLike": lambda pattern, value, variables: _like(pattern, value, variables),
    "ArnEquals": _is_arn,
    "ArnLike": _is_arn,
    "Bool": lambda pattern, value, _: str(pattern).casefold() == value.casefold(),
    "NumericEquals": _number(lambda value, limit: value == limit),
    "NumericLessThan": _number(lambda value, limit: value < limit),
    "NumericLessThanEquals": _number(lambda value, limit: value <= limit),
    "NumericGreaterThan": _number(lambda value, limit: value > limit),
    "NumericGreaterThanEquals": _number(lambda value, limit: value >= limit),
}
_NEGATED = {"StringNotEquals": "StringEquals", "StringNotLike": "StringLike", "ArnNotLike": "ArnLike"}


def _holds(operator: str, key: str, expected: Sequence[Any], request: Request, variables: _Variables) -> bool:
    values = request.values(key)
    if operator == "Null":
        return all((str(each).casefold() == "true") is (values is None) for each in expected)
    quantifier, _, plain = operator.rpartition(":")
    plain, if_exists = plain.removesuffix("IfExists"), plain.endswith("IfExists")
    negated, plain = plain in _NEGATED, _NEGATED.get(plain, plain)
    if plain not in _TESTS or quantifier not in ("", "ForAllValues", "ForAnyValue"):
        raise PolicyError(f"the operator {operator!r} is not understood here")
    if values is None:
        return if_exists or quantifier == "ForAllValues" or (negated and not quantifier)

    def fits(value: str) -> bool:
        return any(_TESTS[plain](str(each), value, variables) for each in expected) is not negated

    if quantifier == "ForAllValues":
        return all(map(fits, values))
    if quantifier == "ForAnyValue":
        return any(map(fits, values))
    if request.several(key):
        raise PolicyError(f"{key} holds several values: {operator} needs ForAllValues or ForAnyValue")
    return fits(values[0])
