"""What the house plan promises of the source code, held by reading it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from shoal.common.errors import all_error_classes
from shoal.common.settings_docs import page
from shoal.common.settings_sources import variable_name
from shoal.common.settings_table import SECTIONS

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("common", "coordinator", "agent", "client", "tools", "slurm")
GENERATED = ("_pb2.py", "_pb2_grpc.py")

MODULE_LINES_MAX = 420
TEST_MODULE_LINES_MAX = 1500  # a list of cases for one part may be long; it still has one reason to change
FUNCTION_LINES_MAX = 75

MAY_IMPORT = {
    "common": {"common"},
    "coordinator": {"coordinator", "common"},
    "agent": {"agent", "tools", "common"},
    "client": {"client", "tools", "common"},
    "slurm": {"slurm", "client", "common"},
    "tools": {"tools", "common"},
}
"""The arrows of architecture.md. v1 is the protocol, the one thing that is imported by its full name, as generated code does:
on disk it lies elsewhere (protos/shoal/v1). In common, only what translates to and from it may know it."""
TRANSLATES = "common/wire"
STARTS_THE_DAEMONS = {"client/embedded.py", "client/daemons.py"}
"""They run coordinator and agent, so they alone may import them."""
LAUNCHES = {"client/launch.py"}
"""A launcher starts daemons as children and asks the coordinator as any client does, so slurm builds on client; the command line
offers what slurm has, by one module that nothing else imports but `main`, when the command runs."""

CORE = (
    *("coordinator/core.py", "coordinator/leases.py", "coordinator/model.py", "coordinator/reports.py"),
    *("coordinator/effects.py", "coordinator/scheduler/*.py", "agent/session.py", "agent/engine/pieces.py"),
    *("coordinator/replicas.py", "coordinator/replica_model.py", "coordinator/swarm_reports.py", "common/chunks.py"),
    *("agent/swarm/book.py", "agent/swarm/news.py", "agent/swarm/steps.py", "agent/engine/feeding.py"),
    *("agent/gates.py", "common/buckets.py", "slurm/ending.py", "slurm/allocation.py"),
    *("common/lease_rules.py", "common/policy.py", "coordinator/quotas.py"),
    *("agent/engine/statuses.py", "agent/engine/validation.py", "common/intervals.py", "common/retry.py"),
)
"""What decides: no clock, no randomness, no I/O of its own. The simulator runs it in virtual time."""
CORE_BANNED_MODULES = {
    "time",
    "asyncio",
    "os",
    "socket",
    "subprocess",
    "threading",
    "sqlite3",
    "pathlib",
    "secrets",
    "uuid",
    "datetime",
}
CORE_BANNED_CALLS = {"open", "print", "input", "exec", "eval"}


def sources(*parts: str) -> list[Path]:
    found = [path for part in parts for path in sorted((ROOT / part).rglob("*.py"))]
    return [path for path in found if not path.name.endswith(GENERATED)]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Line, module as ``PART.MODULE`` for one of ours (else its own name), and whether the import is relative."""
    package = list(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, False
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            targets = [node.module] if node.module else [alias.name for alias in node.names]
            for target in targets:
                yield node.lineno, ".".join([*base, target]), True
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module, False


def test_there_is_something_to_read() -> None:
    for part in PARTS:
        assert len(sources(part)) > (5 if part not in {"tools", "slurm"} else 0)
    for pattern in CORE:
        assert list(ROOT.glob(pattern)), pattern


@pytest.mark.parametrize("path", sources(*PARTS), ids=name_of)
def test_imports_follow_the_arrows(path: Path) -> None:
    part = path.relative_to(ROOT).parts[0]
    allowed = MAY_IMPORT[part] | ({"coordinator", "agent"} if name_of(path) in STARTS_THE_DAEMONS else set())
    allowed |= {"slurm"} if name_of(path) in LAUNCHES else set()
    for line, module, is_relative in imports(path):
        first = module.partition(".")[0]
        if module == "shoal.v1" or module.startswith("shoal.v1."):
            assert part != "common" or name_of(path).startswith(TRANSLATES), f"{name_of(path)}:{line}: {module}"
            continue
        assert first != "shoal", f"{name_of(path)}:{line}: imports between parts are relative"
        assert first not in ("tests", "support", "benchmarks"), f"{name_of(path)}:{line}: {module}"
        if is_relative:
            assert first in allowed, f"{name_of(path)}:{line}: {part} may not import {module}"


@pytest.mark.parametrize("path", sources("tests"), ids=name_of)
def test_tests_import_the_installed_package(path: Path) -> None:
    for line, module, is_relative in imports(path):
        assert module.partition(".")[0] not in PARTS or is_relative, f"{name_of(path)}:{line}: write shoal.{module}"


@pytest.mark.parametrize("path", [path for pattern in CORE for path in sorted(ROOT.glob(pattern))], ids=name_of)
def test_the_core_has_no_clock_no_chance_and_no_io(path: Path) -> None:
    for line, module, is_relative in imports(path):
        first = module.partition(".")[0]
        assert is_relative or first not in CORE_BANNED_MODULES, f"{name_of(path)}:{line}: imports {module}"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            pytest.fail(f"{name_of(path)}:{node.lineno}: the core is synchronous")
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in CORE_BANNED_CALLS, f"{name_of(path)}:{node.lineno}: calls {called}()"
        # A `random.Random` that was passed in is fine; the module's own functions share hidden state.
        assert not called.startswith("random."), f"{name_of(path)}:{node.lineno}: calls {called}()"


def _is_owned(call: ast.Call, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether the value of a call goes anywhere: into a name, an argument, an await, a return."""
    return not isinstance(parents[call], ast.Expr)


@pytest.mark.parametrize("path", sources(*PARTS, "benchmarks", "tests"), ids=name_of)
def test_every_task_has_an_owner(path: Path) -> None:
    """A TaskGroup owns its tasks; every other task must be kept by somebody, as the loop itself does not keep it."""
    tree = tree_of(path)
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        is_bare = called in ("asyncio.create_task", "create_task", "asyncio.ensure_future", "ensure_future")
        is_bare = is_bare or called.endswith(("loop.create_task", "get_running_loop().create_task"))
        assert not is_bare or _is_owned(node, parents), f"{name_of(path)}:{node.lineno}: nobody owns {called}(...)"


@pytest.mark.parametrize("path", sources(*PARTS), ids=name_of)
def test_every_queue_is_bounded(path: Path) -> None:
    """An asyncio queue takes its bound as its first argument."""
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func).partition("[")[0]
        if called in ("asyncio.Queue", "asyncio.LifoQueue", "asyncio.PriorityQueue", "queue.Queue", "Queue"):
            assert node.args or node.keywords, f"{name_of(path)}:{node.lineno}: {called}() grows without a bound"


@pytest.mark.parametrize("path", sources(*PARTS, "benchmarks", "tests"), ids=name_of)
def test_modules_and_functions_are_short(path: Path) -> None:
    lines_max = TEST_MODULE_LINES_MAX if path.is_relative_to(ROOT / "tests") else MODULE_LINES_MAX
    count = len(path.read_text(encoding="utf-8").splitlines())
    assert count <= lines_max, f"{name_of(path)} has {count} lines: it has more than one reason to change"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{name_of(path)}:{node.lineno}: {node.name} has {length} lines"


@pytest.mark.parametrize("path", sources(*PARTS), ids=name_of)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(tree_of(path)), f"{name_of(path)} has no docstring"


def test_every_error_has_a_code_of_its_own_and_says_what_it_is() -> None:
    classes = [cls for cls in all_error_classes() if cls.__module__ == "shoal.common.errors"]
    assert len(classes) > 20
    codes = [cls.code for cls in classes]
    assert sorted(codes) == sorted(set(codes)), "two errors share a code"
    for cls in classes:
        assert cls.__doc__ and cls.__doc__.strip().splitlines()[0].endswith((".", "?")), cls
        assert "code" in vars(cls), f"{cls.__name__} takes the code of its parent"


def test_every_setting_is_documented() -> None:
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    for section in SECTIONS:
        assert f"[{section.name}" in text
        for key in section.table():
            assert f"| `{key.name}` |" in text, f"{section.name}.{key.name}"
            assert section.named or variable_name(section, key) in text
    assert text == page(), "docs/configuration.md is stale: make generate"


def test_no_secret_path_or_host_of_this_machine_is_written_down() -> None:
    """What names the machine that a file was written on does not belong into it."""
    for path in sources(*PARTS, "benchmarks", "tests"):
        if path == Path(__file__):
            continue
        text = path.read_text(encoding="utf-8")
        for word in (str(ROOT) + "/", "/tmp/pytest", "/home/runner", "/root/."):
            assert word not in text, f"{name_of(path)} names {word}"


WEB = ROOT / "coordinator" / "web"
SCRIPT_LINES_MAX = 400
PAGE_BANNED = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc")
"""What would make markup or code of a text: names from outside become text nodes (`dom.js`)."""


@pytest.mark.parametrize("path", sorted((WEB / "static").glob("*.js")), ids=lambda path: path.name)
def test_scripts_are_short_make_no_markup_of_text_and_import_what_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= SCRIPT_LINES_MAX
    assert [banned for banned in PAGE_BANNED if banned in text] == []
    for name, module in re.findall(r'import \{([^}]*)\} from "\./([\w.]+)"', text):
        source = (WEB / "static" / module).read_text(encoding="utf-8")
        for each in filter(None, (part.strip() for part in name.split(","))):
            assert re.search(rf"export (async )?(function|class|const|let) {each}\b", source), f"{module} has no {each}"
            assert len(re.findall(rf"\b{each}\b", text)) > 1, f"{each} is imported and not used"


@pytest.mark.parametrize("path", sorted((WEB / "templates").glob("*.html")), ids=lambda path: path.name)
def test_templates_hold_no_script_and_no_style_of_their_own(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:|\|\s*safe", text)
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text), "pages load nothing from elsewhere"
