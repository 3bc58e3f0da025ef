"""Logs, tracks and caches with changed bytes and lines, and files that are something else."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from commands import PLAN

from gradbench.cli import cli


def logs(number: int, seed: int, place: Path) -> Iterator[str]:
    """Mutates a run's log; whatever is shown is the truth, or the damage is named."""
    results = _measured(place, ["run", *PLAN, "--sessions", "3"])
    shown = ["show", "--format", "json"], ["show", "--runs", "--format", "json"]
    return _mutated(number, seed, results / "runs", *shown)


def tracks(number: int, seed: int, place: Path) -> Iterator[str]:
    """The same for a track over two environments."""
    os.environ["GRADBENCH_RELEASES"] = str(place / "environments")
    builds = [f"one={sys.executable}", f"two={sys.executable}"]
    few = [*("-f", "exp", "-f", "sum", "-o", "vjp", "-o", "gradient"), *("-m", "grad")]
    words = ["releases", "track", *builds, *few, "--sessions", "3", "--budget", "0.02"]
    results = _measured(place, words)
    shown = ["releases", "show", "--all", "--format", "json"]
    return _mutated(number, seed, results / "releases", shown)


def _measured(place: Path, words: Sequence[str]) -> Path:
    results = place / "results"
    command = [sys.executable, "-m", "gradbench", *words, "--results", str(results)]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return results


def _mutated(number: int, seed: int, folder: Path, *commands: Sequence[str]) -> Iterator[str]:
    draw = random.Random(f"mutated/{folder.name}/{seed}")
    (path,) = (p for p in folder.iterdir() if p.suffix == ".jsonl")
    good = path.read_bytes()
    truths = [_run(words, folder.parent).stdout for words in commands]
    for _ in range(number):
        name, mutate = draw.choice(MUTATIONS)
        path.write_bytes(mutate(good, draw))
        changed = path.read_bytes() != good
        problems = [
            # The list of runs reads the ends of each log, and tells an unfinished one by those.
            _judge(_run(words, folder.parent), truth, changed, "--runs" in words)
            for words, truth in zip(commands, truths)
        ]
        yield next((f"{name}: {problem}" for problem in problems if problem), "")
    path.write_bytes(good)


def _run(words: Sequence[str], results: Path) -> Result:
    return CliRunner().invoke(cli, [*words, "--results", str(results)], standalone_mode=False)


def _judge(answer: Result, truth: str, changed: bool, wordless: bool) -> str:
    """What is wrong with an answer about a damaged file; empty where nothing is."""
    error = answer.exception
    if error is not None:
        said = getattr(error, "format_message", None)
        if said is None:
            return f"{type(error).__name__}: {error}"
        return "" if changed and "\n" not in said() else f"refused: {said()}"
    if answer.stdout == truth or not changed:
        return "" if answer.stdout == truth else "another answer from the same file"
    if not answer.stdout.strip():
        return "" if answer.stderr.strip() else "no answer"
    try:
        json.loads(answer.stdout)
    except ValueError:
        return "the answer is no JSON"
    return "" if answer.stderr.strip() or wordless else "other numbers, and nothing said"


def _flip(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _digit(data: bytes, draw: random.Random) -> bytes:
    """Another digit where one stood: what only a checksum can tell."""
    places = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    changed = bytearray(data)
    i = draw.choice(places)
    changed[i] = 48 + (changed[i] - 48 + draw.randrange(1, 10)) % 10
    return bytes(changed)


def _cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def _hole(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + data[start + draw.randrange(1, 500) :]


def _junk(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + draw.randbytes(draw.randrange(1, 500)) + data[start:]


def _zeros(data: bytes, draw: random.Random) -> bytes:
    """What a file system leaves where it lost a block."""
    start = draw.randrange(len(data))
    return data[:start] + bytes(min(512, len(data) - start)) + data[start + 512 :]


def _lines(data: bytes, change: Callable[[list[bytes]], None]) -> bytes:
    lines = data.split(b"\n")[:-1]
    change(lines)
    return b"".join(line + b"\n" for line in lines)


def _drop(data: bytes, draw: random.Random) -> bytes:
    return _lines(data, lambda lines: lines.__delitem__(0))


def _gone(data: bytes, draw: random.Random) -> bytes:
    return _lines(data, lambda lines: lines.__delitem__(draw.randrange(1, len(lines))))


def _twice(data: bytes, draw: random.Random) -> bytes:
    def change(lines: list[bytes]) -> None:
        i = draw.randrange(1, len(lines))
        lines[i:i] = [lines[i]] * draw.randrange(1, 6)

    return _lines(data, change)


def _nested(data: bytes, draw: random.Random) -> bytes:
    def change(lines: list[bytes]) -> None:
        lines[draw.randrange(len(lines))] = b"[" * 100_000

    return _lines(data, change)


def _field(data: bytes, draw: random.Random) -> bytes:
    """One value of one line replaced by something that does not belong there."""

    def change(lines: list[bytes]) -> None:
        i = draw.randrange(len(lines))
        record = json.loads(lines[i])
        holder, key = draw.choice(list(_places(record)))
        holder[key] = draw.choice(VALUES)
        lines[i] = json.dumps(record).encode()

    return _lines(data, change)


VALUES: list[Any] = [
    *(None, True, -5, 0, 2**63 - 1, 2**70, -0.0, 1e308, "", "x" * 100_000, "\x1b[2J", "../../x"),
    *("tpu", "cuda:99999999999999999999", "n=0", [], [[]], {}, {"": None}, "\ud800", "=1+1"),
]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in inside:
        yield value, key
        if isinstance(part, (dict, list)):
            yield from _places(part)


Mutation = Callable[[bytes, random.Random], bytes]

MUTATIONS: list[tuple[str, Mutation]] = [
    ("a bit flipped", _flip),
    ("a digit changed", _digit),
    ("cut off", _cut),
    ("a hole", _hole),
    ("junk in between", _junk),
    ("a block of zeros", _zeros),
    ("the first line gone", _drop),
    ("a line gone", _gone),
    ("a line several times", _twice),
    ("a line of brackets", _nested),
    ("a foreign value", _field),
]


def caches(number: int, seed: int, place: Path) -> Iterator[str]:
    """Mutates what `show` keeps of its verdicts; what is shown never changes."""
    draw = random.Random(f"caches/{seed}")
    os.environ["XDG_CACHE_HOME"] = str(place / "cache")
    results = _measured(place, ["run", *PLAN, "--sessions", "3"])
    words = ["show", "--format", "json"]
    truth = _run(words, results).stdout
    kept = [path for path in (place / "cache").rglob("*") if path.is_file()]
    if not kept:
        yield "there is no cache to change"
        return
    wholes = {path: path.read_bytes() for path in kept}
    simple = [m for m in MUTATIONS if m[1] in (_flip, _cut, _hole, _junk, _zeros)]
    for _ in range(number):
        name, mutate = draw.choice(simple)
        for path, whole in wholes.items():
            path.write_bytes(mutate(whole, draw))
        answer = _run(words, results)
        same = answer.exception is None and answer.stdout == truth
        yield "" if same else f"{name}: {answer.exception or 'other numbers'}"


def odd_files(number: int, seed: int, place: Path) -> Iterator[str]:
    """Puts something that is named like a log beside one, in each folder of the store."""
    draw = random.Random(f"odd/{seed}")
    results = _measured(place, ["run", *PLAN, "--sessions", "2"])
    commands = (["show"], ["show", "--runs"], ["export", "-t", str(place / "all.csv")])
    for _ in range(number):
        kind = draw.choice(list(ODD))
        shelf = draw.choice(["runs", "releases", "studies"])
        path = results / shelf / draw.choice(["00000000-000000-aaaaaa.jsonl", "zzz.jsonl"])
        path.parent.mkdir(exist_ok=True)
        ODD[kind](path)
        problem = ""
        for words in commands:
            answer = _run(words, results)
            if answer.exception is not None:
                problem = problem or f"{kind} in {shelf}, {words[0]}: {answer.exception!r}"
            elif shelf == "runs" and "--runs" in words and path.name not in answer.stderr:
                problem = f"{kind} in {shelf}: not named"
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        yield problem


def _socket(path: Path) -> None:
    # A socket's name is short: it is bound in its folder.
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


ODD: dict[str, Callable[[Path], Any]] = {
    "a folder": lambda path: path.mkdir(),
    "a FIFO": lambda path: os.mkfifo(path),
    "a socket": _socket,
    "a dead link": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a folder": lambda path: path.symlink_to("."),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "nothing": lambda path: path.touch(),
    "a newline": lambda path: path.write_bytes(b"\n"),
    "junk": lambda path: path.write_bytes(random.Random(0).randbytes(5000)),
    "UTF-16": lambda path: path.write_text('{"kind": "run"}', encoding="utf-16"),
    "another kind": lambda path: path.write_text('{"kind": "study"}\n'),
    "brackets": lambda path: path.write_text("[" * 200_000),
}
