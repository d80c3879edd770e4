"""Puts small faults into a module, one at a time, and tells which of them its tests do not notice.

`make mutants MODULE=smallcnn/pruning.py MINUTES=10` tries what fits into the minutes, in an order drawn once, and goes
on where it was when called again: what a test noticed is tried anew only if the module changes, what survived also if
a test does. Outcomes and survivors are in build/mutants/; tests/equivalent_mutants.toml has those that change nothing,
each with a word why. A fault is put into a copy of the project and tested in a fork, where imports cost nothing.
"""

import ast
import copy
import gc
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "mutants"
EQUIVALENT = ROOT / "tests" / "equivalent_mutants.toml"
WORKERS = 2
# A module's tests are in the file of its name, or else of its folder's, but for these; slow ones run for engines only.
TESTS = {
    "smallcnn/config.py": ["tests/test_training.py"],
    "smallcnn/engines/tensorflow.py": ["tests/engines/test_evaluation.py", "tests/engines/test_tensorflow.py"],
}
SWAPPED = {
    ast.Add: ast.Sub, ast.Mult: ast.Div, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Lt: ast.LtE, ast.Gt: ast.GtE,
    ast.Eq: ast.NotEq, ast.Is: ast.IsNot, ast.In: ast.NotIn,
    "best": "final", "train": "test", "min": "max", "any": "all", "floor": "ceil", "low": "high", "mean": "sum",
    "startswith": "endswith", "rows": "columns", "seconds": "epochs",
}  # fmt: skip
SWAPPED |= {second: first for first, second in SWAPPED.items()}
SWAPPED |= {ast.FloorDiv: ast.Div, ast.Mod: ast.Mult, ast.Pow: ast.Mult}
TYPES = ("dict", "list", "tuple", "set", "type", "Callable")


def swap_words(name: str) -> str:
    return "_".join(SWAPPED.get(word, word) for word in name.split("_"))


def changed(node: ast.AST, **fields: object) -> ast.AST:
    new = copy.copy(node)
    vars(new).update(fields)
    return new


def with_neighbours_swapped(nodes: list[ast.AST]) -> Iterator[list[ast.AST]]:
    return (nodes[:i] + nodes[i : i + 2][::-1] + nodes[i + 2 :] for i in range(len(nodes) - 1))


def without_each(nodes: list[ast.AST]) -> Iterator[list[ast.AST]]:
    return (nodes[:i] + nodes[i + 1 :] for i in range(len(nodes)))


def faults(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of `node` by mistake."""
    match node:
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(value=str() as value):
            yield from map(ast.Constant, dict.fromkeys((f"XX{value}", swap_words(value))).keys() - {value})
        case ast.Attribute(attr=name) if swap_words(name) != name:
            yield changed(node, attr=swap_words(name))
        case ast.Name(id=name, ctx=ast.Load()) if swap_words(name) != name:
            yield ast.Name(swap_words(name))
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in SWAPPED:
            yield changed(node, op=SWAPPED[type(op)]())
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                yield changed(node, ops=[*ops[:i], SWAPPED[type(op)](), *ops[i + 1 :]])
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test) if not isinstance(test, ast.UnaryOp):
            yield changed(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.comprehension(ifs=[_, *_]):
            yield from (changed(node, ifs=fewer) for fewer in without_each(node.ifs))
        case ast.Call(args=args, keywords=keywords):
            yield from (changed(node, args=swapped) for swapped in with_neighbours_swapped(args))
            yield from (changed(node, keywords=fewer) for fewer in without_each(keywords))
        case ast.Tuple(elts=elements, ctx=ast.Load()) if not all(isinstance(each, ast.Constant) for each in elements):
            yield from (changed(node, elts=swapped) for swapped in with_neighbours_swapped(elements))
        case ast.Match(cases=cases) if len(cases) > 1:
            yield from (changed(node, cases=fewer) for fewer in without_each(cases))
        case ast.Return(value=ast.AST()):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call() | ast.Yield()) | ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()


def mutants(source: str) -> dict[str, tuple[int, str]]:
    """The faulty versions of `source`, line and text, by names that hold while their function stays as it is."""
    tree, found, seen = ast.parse(source), {}, Counter()

    def visit(node: ast.AST, where: str) -> None:
        where += f"{'.' * bool(where)}{node.name}" if isinstance(node, ast.FunctionDef | ast.ClassDef) else ""
        for field, value in ast.iter_fields(node):
            nodes = value if isinstance(value, list) else [value]
            for index, child in enumerate(nodes):
                is_type = field in ("annotation", "returns") or getattr(getattr(child, "value", 0), "id", "") in TYPES
                is_text = isinstance(child, ast.Constant) and isinstance(node, ast.JoinedStr | ast.Expr)
                if not isinstance(child, ast.AST) or is_type or is_text or field == "format_spec":
                    continue
                for new in faults(child):
                    before, after = (" ".join(ast.unparse(each).split()) for each in (child, new))
                    if before == after:
                        continue
                    both = zip(f"{before}\n", f"{after}\n", strict=False)
                    start = next(i for i, (one, other) in enumerate(both) if one != other) // 40 * 40
                    name = f"{where}: {before[start : start + 90]} → {after[start : start + 90]}"
                    seen[name] += 1
                    setattr(node, field, [*nodes[:index], new, *nodes[index + 1 :]] if value is nodes else new)
                    text = ast.unparse(ast.fix_missing_locations(tree))
                    setattr(node, field, value)
                    found[f"{name} #{seen[name]}"] = (getattr(child, "lineno", getattr(node, "lineno", 0)), text)
                visit(child, where)

    visit(tree, "")
    return found


def copy_project(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-zco", "--exclude-standard"], cwd=ROOT, stdout=-1, check=True)
    for name in listed.stdout.decode().split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / "data").symlink_to(ROOT / "data")
    return folder


def start(folder: Path, module: str, text: str, options: list[str], seconds: float = 0, **environment: str) -> int:
    """Tests `text` in the place of `module` for so many seconds at most, in a process whose number is returned."""
    (folder / module).write_text(text, "utf-8")
    Path(cache_from_source(str(folder / module))).unlink(missing_ok=True)
    if number := os.fork():
        return number
    try:
        os.setsid()
        signal.alarm(int(seconds))
        os.chdir(folder)
        os.environ |= {"PYTHONPATH": str(folder), **environment}
        sys.path[0], sys.dont_write_bytecode = str(folder), bool(environment)
        for stream in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR), stream)
        os._exit(pytest.main(["-x", "-p", "no:cacheprovider", "--hypothesis-profile=quick", *options]))
    finally:
        os._exit(9)


def finish() -> tuple[int, bool]:
    """Waits for any process of `start`, ends what that left running, and returns its number and whether it passed."""
    number, status = os.wait()
    with suppress(ProcessLookupError):
        os.killpg(number, signal.SIGKILL)
    return number, status == 0


def main(module: str, minutes: float) -> None:
    stop = time.monotonic() + 60 * minutes
    source = (ROOT / module).read_text("utf-8")
    folder = Path("tests", *Path(module).parts[1:-1])
    named = [folder / f"test_{Path(module).name}", folder.with_name(f"test_{folder.name}.py")]
    tests = TESTS.get(module) or [str(path) for path in named if (ROOT / path).is_file()][:1]
    if not tests:
        sys.exit(f"{module} has neither {named[0]} nor {named[1]}; name its tests in TESTS of scripts/mutants.py")
    options = [*tests, "--hypothesis-seed=0", *([] if "/engines/" in module else ["-m", "not slow"])]
    found, equal = mutants(source), tomllib.loads(EQUIVALENT.read_text("utf-8")).get(module, {})
    for name in equal.keys() - found.keys():
        print(f"{EQUIVALENT.name} names a fault that {module} cannot have any more: {name}")
    file = (RESULTS / module.replace("/", ".")).with_suffix(".json")
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in (source, *((ROOT / t).read_text() for t in tests))]
    before = json.loads(file.read_text("utf-8")) if file.exists() else {"hashes": [""], "noticed": {}}
    same = [one == other for one, other in zip(before["hashes"], hashes, strict=False)]
    noticed = {name: was for name, was in before["noticed"].items() if same[0] and name in found and (was or all(same))}
    left = [name for name in found if name not in noticed and name not in equal]
    random.Random(0).shuffle(left)

    free = [copy_project(file.with_suffix(f".{number}")) for number in range(WORKERS)]
    started = time.monotonic()
    for folder in free:
        start(folder, module, ast.unparse(ast.parse(source)), options)
        if not finish()[1]:
            sys.exit(f"the tests of {module} fail without a fault: {' '.join(tests)}; mend them first")
    longest = 30 + 5 * (time.monotonic() - started) / WORKERS
    running: dict[int, tuple[str, Path]] = {}
    try:
        while running or (left and time.monotonic() < stop):
            while free and left and time.monotonic() < stop:
                name, folder = left.pop(), free.pop()
                number = start(folder, module, found[name][1], options, longest, PYTHONDONTWRITEBYTECODE="1")
                running[number] = name, folder
            number, passed = finish()
            name, folder = running.pop(number)
            noticed[name] = not passed
            free.append(folder)
            file.write_text(json.dumps({"hashes": hashes, "noticed": noticed}, indent=1, ensure_ascii=False), "utf-8")
    finally:
        for number in running:
            os.killpg(number, signal.SIGKILL)
        for number in range(WORKERS):
            shutil.rmtree(file.with_suffix(f".{number}"), ignore_errors=True)
    survivors = sorted((found[name][0], name) for name, was in noticed.items() if not was and name not in equal)
    lines = "".join(f"{module}:{line}: {name}\n" for line, name in survivors)
    file.with_suffix(".txt").write_text(lines, "utf-8")
    tried = len(noticed.keys() - equal.keys())
    print(f"{module}: {tried} of {len(found) - len(equal)} faults tried, {len(equal)} more change nothing;", end=" ")
    print(f"{100 - 100 * len(survivors) / max(tried, 1):.1f} % noticed, the others are in {file.with_suffix('.txt')}")


if __name__ == "__main__":
    module, minutes = sys.argv[1:]
    if not (ROOT / module).is_file() or not minutes.isdecimal():
        sys.exit(f"MODULE is {module!r}, MINUTES is {minutes!r}; expected such as smallcnn/pruning.py and 10")
    os.nice(19)
    import hypothesis.strategies  # noqa: F401
    import numpy  # noqa: F401
    import pandas  # noqa: F401
    import pytest
    import scipy.stats  # noqa: F401

    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"  # as the library imports it, and as quietly
    standard_error = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    import tf_keras  # noqa: F401

    os.dup2(standard_error, 2)
    gc.freeze()  # what is imported is not looked through again in every fork
    main(module, float(minutes))
