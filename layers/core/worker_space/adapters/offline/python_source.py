"""What can be said of Python source without running it."""

import ast
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from worker_space.adapters.offline.markdown import bullets, code, fenced, listed, plural, words

__all__ = ["PythonFacts", "describe", "observe", "outline", "read"]

_LONG_FUNCTION: Final = 50
_MARK: Final = re.compile(r"#.*\b(TODO|FIXME|XXX)\b")
_OUTLINE: Final = re.compile(r"^(?:async\s+def|def|class)\s+(\w+)")
_parsing = threading.Lock()

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonFacts:
    """What a module's syntax tree shows. `error` is set instead when it has none."""

    docstring: str = ""
    imports: Sequence[str] = ()
    unused: Sequence[str] = ()
    classes: Sequence[ast.ClassDef] = ()
    functions: Sequence[ast.FunctionDef | ast.AsyncFunctionDef] = ()
    constants: Sequence[str] = ()
    entry_line: int | None = None
    marks: Sequence[tuple[int, str]] = ()
    findings: Sequence[str] = field(default=())
    error: str | None = None


def read(source: str) -> PythonFacts:
    """The facts of one module; a syntax error is a fact too."""
    marks = [(number, line.strip()) for number, line in enumerate(source.splitlines(), 1) if _MARK.search(line)]
    try:
        # An odd escape in the user's file is no warning about this program. The filter list is shared by all threads.
        with _parsing, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
        body = tree.body
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        return PythonFacts(
            docstring=_doc(tree),
            imports=sorted({name for node in imports for name in _modules(node)}),
            unused=_unused(tree, imports),
            classes=[node for node in body if isinstance(node, ast.ClassDef)],
            functions=[node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)],
            constants=[name for node in body for name in _constants(node)],
            entry_line=next((node.lineno for node in body if _is_entry(node)), None),
            marks=marks,
            findings=list(_findings(tree)),
        )
    except SyntaxError as error:
        return PythonFacts(marks=marks, error=f"line {error.lineno or '?'}: {error.msg}")
    except (ValueError, RecursionError, MemoryError) as error:
        return PythonFacts(marks=marks, error=f"too deep or not text ({type(error).__name__})")


def describe(facts: PythonFacts, source: str, wanted: frozenset[str] = frozenset()) -> str:
    """The structure in Markdown; definitions among `wanted` are shown with their source."""
    if facts.error is not None:
        found = [match[1] for line in source.splitlines() if (match := _OUTLINE.match(line))]
        text = f"It does not parse as Python: {facts.error}."
        return text + (f"\n\nTop-level definitions by their lines: {listed(found, 30)}." if found else "")
    sections: list[str] = []
    if focus := [node for node in _definitions(facts) if node.name in wanted]:
        sections.extend(_focus(node, source) for node in focus[:3])
    if facts.docstring:
        sections.append(f"> {words(facts.docstring)}")
    if facts.imports:
        sections.append(f"**Imports:** {listed(facts.imports, 20)}")
    if facts.constants:
        sections.append(f"**Module-level names:** {listed(facts.constants, 12)}")
    if facts.classes:
        lines: list[str] = []
        for node in facts.classes:
            lines.append(_line(node))
            lines.extend(f"  {_line(method)}" for method in _methods(node)[:20])
        sections.append("**Classes**\n" + "\n".join(_nested(lines[:60])))
    if facts.functions:
        sections.append("**Functions**\n" + bullets([_line(node) for node in facts.functions], 40, "more functions"))
    if facts.entry_line is not None:
        sections.append(f"**Entry point:** runs as a script (`__main__` check in line {facts.entry_line}).")
    if facts.marks:
        sections.append("**To do**\n" + bullets([f"line {number}: {code(line)}" for number, line in facts.marks], 15))
    if not (facts.classes or facts.functions or facts.imports or facts.constants):
        sections.append("It defines no functions, classes or module-level names.")
    return "\n\n".join(sections)


def outline(source: str) -> str:
    """Top-level definitions of source that was seen in part only."""
    found = [match[1] for line in source.splitlines() if (match := _OUTLINE.match(line))]
    return f"Top-level definitions in what I saw: {listed(found, 40)}." if found else "I saw no top-level definitions."


def observe(facts: PythonFacts) -> list[str]:
    """What a reviewer would note, each with its line."""
    if facts.error is not None:
        return [f"syntax error, {facts.error}"]
    notes: list[str] = []
    if facts.unused:
        notes.append(f"imported but not used: {listed(facts.unused)}")
    public = [node for node in _definitions(facts) if not node.name.startswith("_")]
    if bare := [node.name for node in public if not _doc(node)]:
        notes.append(f"no docstring: {listed(bare)}")
    for node in _definitions(facts):
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if not isinstance(node, ast.ClassDef) and length > _LONG_FUNCTION:
            notes.append(f"{code(node.name)} is long: {length} lines from line {node.lineno}")
    return [*notes, *facts.findings]


def _definitions(facts: PythonFacts) -> Iterator[Definition]:
    yield from facts.functions
    for node in facts.classes:
        yield node
        yield from _methods(node)


def _methods(node: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [child for child in node.body if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)]


def _doc(node: ast.Module | Definition) -> str:
    return (ast.get_docstring(node) or "").strip()


def _line(node: Definition) -> str:
    doc = _doc(node).partition("\n")[0]
    return f"{code(_signature(node), 160)} (line {node.lineno})" + (f": {words(doc, 160)}" if doc else "")


def _nested(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        bare = line.lstrip()
        yield " " * (len(line) - len(bare)) + f"- {bare}"


def _signature(node: Definition) -> str:
    try:
        if isinstance(node, ast.ClassDef):
            bases = ", ".join(ast.unparse(base) for base in node.bases)
            return f"class {node.name}({bases})" if bases else f"class {node.name}"
        returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
        start = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
        return f"{start} {node.name}({ast.unparse(node.args)}){returns}"
    except RecursionError:
        return node.name


def _focus(node: Definition, source: str) -> str:
    lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
    shown = fenced("\n".join(lines[:40]) + ("\n…" if len(lines) > 40 else ""), "python")
    return f"{code(_signature(node), 160)} stands in line {node.lineno} ({plural(len(lines), 'line')}):\n\n{shown}"


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return ["." * node.level + (node.module or "")]


def _constants(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name) and not target.id.startswith("__")]


def _is_entry(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and isinstance(node.test.left, ast.Name)
        and node.test.left.id == "__name__"
    )


def _unused(tree: ast.Module, imports: Sequence[ast.Import | ast.ImportFrom]) -> list[str]:
    """Imported names that appear nowhere else; `__future__`, `import a as a` and names in `__all__` are used."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    # Also names in text: `__all__`, and annotations in quotes.
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    used.update(word for text in texts if len(text) < 500 for word in re.findall(r"\w+", text))
    found: list[str] = []
    for node in imports:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            continue
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            if name not in used and alias.name != "*" and alias.asname != alias.name:
                found.append(name)
    return sorted(set(found))


def _findings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"line {node.lineno}: a bare `except` also catches the interrupt from the keyboard"
        elif isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            yield f"line {node.lineno}: a star import hides where names come from"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            defaults = [*node.args.defaults, *(default for default in node.args.kw_defaults if default is not None)]
            if any(isinstance(default, ast.List | ast.Dict | ast.Set) for default in defaults):
                yield f"line {node.lineno}: {code(node.name)} has a mutable default, which all its calls share"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"}:
            yield f"line {node.lineno}: it calls `{node.func.id}`"
