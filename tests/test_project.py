"""The project's files agree with one another: environment, lock, layers, Makefile, changelog."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import interproto_lib

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "interproto_lib"
MAX_LINES = 450

# On conda-forge under another name, or not there at all.
CONDA_NAMES = {"torch": "pytorch", "playwright": "playwright-python"}
NOT_ON_CONDA_FORGE = {"snakemake"}

# A module may import from its own layer's folder and from layers further down in this list, never from one above.
LAYERS = (
    ("cli",),
    ("checkpoint_commands", "train_command"),
    ("batch", "html", "doctor"),
    ("training", "views"),
    ("analysis", "methods"),
    ("models", "losses"),
    ("data",),
    ("runs", "presets"),
    ("deciding_settings",),
    ("config",),
    ("setting_checks",),
    ("files", "progress", "devices"),
    ("errors",),
)
# Import name -> distribution, where they differ.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
    "yaml": "pyyaml",
    "mpl_toolkits": "matplotlib",
    "torch.utils.tensorboard": "tensorboard",
}


@cache
def project() -> dict[str, object]:
    return tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(*extras: str) -> dict[str, Requirement]:
    texts = [*project()["dependencies"], *(text for e in extras for text in project()["optional-dependencies"][e])]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, texts)}


@cache
def tracked_files() -> tuple[Path, ...]:
    call = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, check=True)
    paths = (REPO / name for name in call.stdout.decode().split("\0") if name)
    return tuple(path for path in paths if path.is_file())


@cache
def modules() -> dict[str, ast.Module]:
    """Dotted name -> syntax tree of every module of the package."""
    trees = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__")
        trees[name] = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return trees


def imported_names(module: str, tree: ast.AST) -> set[str]:
    """Dotted names that a module imports anywhere in it, functions included; type-checking blocks too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} line {node.lineno}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in modules() else str(node.module))
    return found


def part_of(module: str) -> str:
    """`interproto_lib.data.manifests` is of the part `data`; the package itself of the part ''."""
    return [*module.split("."), ""][1]


# --- imports --------------------------------------------------------------------------------------


def test_import_is_quick_and_light():
    code = (
        "import sys, time; start = time.perf_counter(); import interproto_lib; seconds = time.perf_counter() - start;"
        "heavy = {'torch', 'torchvision', 'pandas', 'numpy', 'matplotlib', 'seaborn', 'sklearn', 'umap', 'papermill',"
        "'plotly', 'pyarrow', 'snakemake'} & set(sys.modules); print(seconds, *heavy)"
    )
    call = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    seconds, *heavy = call.stdout.split()
    assert heavy == []
    assert float(seconds) < 1


def test_every_module_belongs_to_a_layer():
    parts = {part_of(name) for name in modules()} - {""}
    assert parts - {part for layer in LAYERS for part in layer} == set()


def test_imports_run_one_way():
    rank = {part: place for place, layer in enumerate(LAYERS) for part in layer}
    wrong = []
    for name, tree in modules().items():
        for imported in imported_names(name, tree):
            if not imported.startswith("interproto_lib") or part_of(imported) in ("", part_of(name)):
                continue
            if rank[part_of(imported)] < rank[part_of(name)]:
                wrong.append(f"{name} imports {imported}, which stands above it")
    assert wrong == []


def test_views_never_train():
    wrong = [
        (name, imported)
        for name, tree in modules().items()
        if part_of(name) == "views"
        for imported in imported_names(name, tree)
        if imported.startswith("interproto_lib.training")
    ]
    assert wrong == []


def test_no_import_cycle_between_parts_or_modules():
    for level in (part_of, str):
        graph: dict[str, set[str]] = {}
        for name, tree in modules().items():
            targets = {level(i) for i in imported_names(name, tree) if i in modules()}
            graph.setdefault(level(name), set()).update(targets - {level(name), ""})
        assert find_cycle(graph) == []


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for target in sorted(graph.get(node, ())):
            cycle = visit(target, [*path, node])
            if cycle:
                return cycle
        done.add(node)
        return []

    return next((cycle for node in sorted(graph) if (cycle := visit(node, []))), [])


def test_find_cycle_finds_one():
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_every_import_is_a_declared_dependency():
    declared = set(requirements()) | {canonicalize_name(Requirement(r).name) for r in optional_runtime()}
    wrong = []
    for name, tree in modules().items():
        for imported in imported_names(name, tree):
            top = imported.split(".")[0]
            if top in ("interproto_lib", "_typeshed") or top in sys.stdlib_module_names:
                continue
            if canonicalize_name(DISTRIBUTIONS.get(top, top)) not in declared:
                wrong.append(f"{name} imports {imported}")
    assert wrong == []


def optional_runtime() -> list[str]:
    extras = project()["optional-dependencies"]
    return [text for extra, texts in extras.items() if extra != "dev" for text in texts]


# --- sizes and versions ---------------------------------------------------------------------------


def test_no_module_is_too_long():
    lengths = {str(p.relative_to(REPO)): p.read_text(encoding="utf-8").count("\n") for p in PACKAGE.rglob("*.py")}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_changelog_has_the_version():
    headings = re.findall(r"^## (\S+)", (REPO / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
    assert headings[0] == interproto_lib.__version__


# --- environment.yml ------------------------------------------------------------------------------


def test_environment_yml_equals_pyproject():
    from rattler import MatchSpec

    environment = yaml.safe_load((REPO / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == "interproto"
    assert environment["channels"] == ["conda-forge"]
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    specs = [MatchSpec(entry, strict=True) for entry in conda]
    found = {spec.name.normalized: spec for spec in specs}
    assert len(found) == len(specs), "a package stands twice"

    wanted = requirements("dev")
    by_pip = {name for name in wanted if name in NOT_ON_CONDA_FORGE}
    by_conda = {CONDA_NAMES.get(name, name): requirement for name, requirement in wanted.items() if name not in by_pip}
    assert set(found) == set(by_conda) | {"python", "pip"}
    for name, requirement in by_conda.items():
        assert ranges(found[name].version) == ranges(requirement.specifier), name
    assert ranges(found["python"].version) == ranges(project()["requires-python"])

    # A requirements line cannot carry --no-deps; what conda has installed satisfies `-e .`, so pip adds only snakemake.
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip[-1] == "-e ."
    assert {canonicalize_name(Requirement(line).name): line for line in pip[:-1]} == {
        name: str(wanted[name]) for name in by_pip
    }


def ranges(specifier: object) -> set[str]:
    return set() if specifier is None else {part.strip() for part in str(specifier).split(",") if part.strip()}


# --- lock -----------------------------------------------------------------------------------------

PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+?)(?:\s*;\s*(?P<marker>.*?))?\s*\\?$")


def lock_pins() -> dict[str, list[tuple[Version, str]]]:
    pins: dict[str, list[tuple[Version, str]]] = {}
    for line in (REPO / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if line.startswith((" ", "#")) or not line:
            continue
        match = PIN.match(line)
        assert match, f"not an exact pin: {line}"
        pins.setdefault(canonicalize_name(match["name"]), []).append((Version(match["version"]), match["marker"] or ""))
    return pins


def test_lock_holds_every_dependency_in_its_range():
    pins = lock_pins()
    wanted = requirements("dev")
    assert set(wanted) - set(pins) == set()
    outside = [
        f"{name}=={version} is outside {requirement.specifier}"
        for name, requirement in wanted.items()
        for version, _ in pins[name]
        if not requirement.specifier.contains(version)
    ]
    assert outside == []


def test_lock_says_what_it_was_made_from():
    """uv notes beside each pin who asked for it: exactly the direct dependencies are asked for by the project."""
    text = (REPO / "requirements.lock").read_text(encoding="utf-8")
    direct, name = set(), ""
    for line in text.splitlines():
        if match := PIN.match(line):
            name = canonicalize_name(match["name"])
        if line.startswith("    #") and "interproto-lib (pyproject.toml)" in line:
            direct.add(name)
    assert direct == set(requirements("dev"))


def test_lock_has_hashes_and_no_address():
    text = (REPO / "requirements.lock").read_text(encoding="utf-8")
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.M)[1:]
    assert len(blocks) > 100
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []
    assert "://" not in text
    assert "--" not in text.replace("--hash=", "")


def test_lock_avoids_the_torch_pair_that_cannot_work():
    pins = lock_pins()
    torch_versions = {version.release[:2] for version, _ in pins["torch"]}
    assert (2, 13) not in torch_versions
    assert all(not version.local for name in ("torch", "torchvision") for version, _ in pins[name])


# --- make -----------------------------------------------------------------------------------------


def test_make_help_lists_every_command():
    text = (REPO / "Makefile").read_text(encoding="utf-8")
    commands = set(re.search(r"^\.PHONY: (.*)$", text, flags=re.M)[1].split())
    assert {"help", "reproduce", "test", "lab", "lint", "types", "bench", "clean"} <= commands
    call = subprocess.run(["make", "help"], cwd=REPO, capture_output=True, text=True, check=True)
    listed = set(re.findall(r"^  (\w+) +\S", call.stdout, flags=re.M))
    assert listed == commands


def test_make_without_a_python_says_so(tmp_path):
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_bytes((REPO / name).read_bytes())
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    call = subprocess.run(["make", "test", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True)
    assert call.returncode != 0
    assert f"No Python 3.11 or newer found at PYTHON={old}" in call.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_begins_anew_after_an_installation_that_was_cut_short(tmp_path):
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_bytes((REPO / name).read_bytes())
    (tmp_path / "interproto_lib").mkdir()
    (tmp_path / "interproto_lib" / "cli.py").write_text("")  # stands for `doctor`
    tools = tmp_path / "tools"
    tools.mkdir()
    installer = tools / "uv"
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    stamp, mark, left = (tmp_path / ".venv" / name for name in ("installed", "half-installed", "left-behind"))

    def make(script: str) -> subprocess.CompletedProcess[str]:
        installer.write_text(f"#!/bin/sh\n{script}\n")
        installer.chmod(0o755)
        command = ["make", ".venv/installed", f"PYTHON={sys.executable}"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert make("kill -9 $PPID").returncode != 0
    assert mark.exists()
    assert not stamp.exists()
    left.touch()
    done = make('echo "$@" >> calls')
    assert done.returncode == 0, done.stderr
    assert "cut short" in done.stdout
    assert stamp.exists()
    assert not mark.exists()
    assert not left.exists()
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [("--require-hashes -r requirements.lock" in call, "--no-deps" in call) for call in calls] == [
        (True, False),
        (False, True),
    ]
    assert "up to date" in make("exit 1").stdout
    os.utime(tmp_path / "requirements.lock", ns=(2 * stamp.stat().st_mtime_ns,) * 2)
    assert make("exit 1").returncode != 0
    assert not stamp.exists()


# --- what must not be in the tree -----------------------------------------------------------------


def test_no_tracked_file_names_a_package_registry():
    # In parts, so that this file does not name them either.
    hosts = ["pypi org", "files pythonhosted org", "pypi python org", "registry npmjs org", "download pytorch org"]
    pattern = re.compile("|".join(re.escape(".".join(host.split())) for host in hosts))
    hits = [
        f"{path.relative_to(REPO)}:{number}"
        for path in tracked_files()
        if b"\0" not in (content := path.read_bytes())
        for number, line in enumerate(content.decode("utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert hits == []
