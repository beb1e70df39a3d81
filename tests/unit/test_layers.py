"""Imports go downwards only, commands are strangers to each other, scripts are doors, and start-up stays light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIB = ROOT / "lib" / "clusterd"
DESIGN = (ROOT / "docs" / "design.md").read_text()

LAYER_0 = {"errors", "paths", "durations", "model"}
LAYER_1 = {"run", "lock", "state", "log"}
"""And config with all its helpers."""
LAYER_3 = {"cli", "manpage"}
"""Everything else beside commands/ is a subject: layer 2."""

COMMANDS = sorted(path.stem for path in (LIB / "commands").glob("*.py") if path.stem != "__init__")
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file())
WITHOUT_SSH = ("check_peer", "takeover", "watchdog", "release", "mirror_service", "timesync", "peer_gate")


def name_of(path: Path) -> str:
    """The module's name below clusterd: "lock", "commands.release"."""
    return ".".join(path.relative_to(LIB).with_suffix("").parts)


def layer(name: str) -> int:
    """The layer of a module; the package itself is below everything."""
    if name in {"", "__init__", "commands.__init__"}:
        return 0
    if name.startswith("commands."):
        return 4
    return 0 if name in LAYER_0 else 1 if name in LAYER_1 or name.startswith("config") else 3 if name in LAYER_3 else 2


def imports(path: Path, *, at_load: bool = False) -> set[str]:
    """The modules of clusterd that a module imports: anywhere in it, or only when it is loaded; not for annotations."""
    found = set()
    tree = ast.parse(path.read_text())
    if at_load:
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    modules = {name_of(path) for path in LIB.rglob("*.py")}
    below = {name.removeprefix("clusterd.") for name in found if name.startswith("clusterd.")}
    return {name for name in below if name in modules}


MODULES = sorted(LIB.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_downwards_only(path: Path) -> None:
    mine = layer(name_of(path))
    for other in imports(path):
        assert layer(other) <= mine, f"{name_of(path)} (layer {mine}) imports {other} (layer {layer(other)})"
        if mine in {0, 4}:
            assert layer(other) < mine or mine == 0, f"{name_of(path)} imports {other}, of its own layer"


def test_there_is_no_circle() -> None:
    graph = {name_of(path): imports(path, at_load=True) for path in MODULES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"circle: {' -> '.join((*trail, name))}"
        if name not in done:
            for other in graph[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_remote_knows_fabric(path: Path) -> None:
    heavy = {"fabric", "invoke", "paramiko"}
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        names = (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or ""] if isinstance(node, ast.ImportFrom)
            else []
        )  # fmt: skip
        if any(name.partition(".")[0] in heavy for name in names):
            assert name_of(path) == "remote"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_one_subject(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= 320, f"{name_of(path)} has {lines} lines: it has become two subjects"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_doors(path: Path) -> None:
    name = path.name
    tree = ast.parse(path.read_text())
    body = [ast.unparse(node) for node in tree.body if not isinstance(node, ast.Expr) or "exit" in ast.unparse(node)]
    assert body == ["import sys", f"from clusterd.commands.{name} import main", "sys.exit(main())"]
    assert path.stat().st_mode & 0o111
    assert name in COMMANDS


def test_every_command_has_a_script() -> None:
    assert [path.name for path in SCRIPTS] == COMMANDS


@pytest.mark.parametrize("name", WITHOUT_SSH)
def test_light_scripts_load_nothing_heavy(name: str) -> None:
    code = f"import sys, clusterd.commands.{name}; print('\\n'.join(sys.modules))"
    env = {"PYTHONPATH": str(ROOT / "lib"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    loaded = {module.partition(".")[0] for module in done.stdout.split()}
    assert not loaded & {"fabric", "invoke", "paramiko", "rich", "jinja2", "configobj", "dateutil", "email", "smtplib"}


def test_cluster_itself_loads_fabric_only_to_reach_somebody() -> None:
    code = "import sys; from clusterd.commands import cluster; cluster.main(['--list']); print('\\n'.join(sys.modules))"
    env = {"PYTHONPATH": str(ROOT / "lib"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert not {"fabric", "paramiko"} & set(done.stdout.split())


def test_the_design_has_every_module_in_its_layer() -> None:
    section = DESIGN.partition("\n## 12.")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([0-3])[^|]*\|(.*)\|$", section, re.MULTILINE)
    said = {name: int(number) for number, row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert said.pop("config…") == 1
    modules = {name_of(path) for path in MODULES if path.parent == LIB} - {"__init__"}
    assert said == {name: layer(name) for name in modules if not name.startswith("config")}


def defined(path: Path) -> set[str]:
    """What a module defines: its own names, and those inside its classes."""
    found = set()
    tree = ast.parse(path.read_text())
    for node in (*tree.body, *(inner for each in tree.body if isinstance(each, ast.ClassDef) for inner in each.body)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {ast.unparse(target) for target in targets}
    return found


def test_what_the_design_names_is_there() -> None:
    files = {"py", "json", "jsonl", "conf"}
    names = [found.groups() for found in re.finditer(r"`([a-z_]+)\.(\w+)(?:\(\))?`", DESIGN)]
    known = {name_of(path): defined(path) for path in MODULES}
    named = [(module, name) for module, name in names if module in known and name not in files]
    assert len(named) > 20
    assert [f"{module}.{name}" for module, name in named if name not in known[module]] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_makes_its_parser_for_the_man_page(name: str) -> None:
    from clusterd import manpage

    made = manpage.parser(name)
    assert made.prog == name
    options = {option for action in made._actions for option in action.option_strings}
    assert {"--config", "--dry-run", "-v", "--json", "--version"} <= options
    text = manpage.page(made)
    assert text.startswith(f".TH {name.upper()} 8")


def test_the_manual_has_every_command() -> None:
    from clusterd import manpage

    assert sorted(manpage.COMMANDS) == [path.name for path in SCRIPTS]
