"""Files are not trusted: what is damaged, out of range or there twice costs only itself."""

import json
import multiprocessing
import os
import socket
import threading
import warnings

import click
import msgspec
import pytest

import gradbench
from gradbench.cli import cli
from gradbench.core.cases import Comparison, Entry
from gradbench.store import executed, lines, logs
from gradbench.store import runs as log
from gradbench.store import studies as studies
from gradbench.store import tracks as tracks
from gradbench.store.logs import Ended, Resumed

EXP = Comparison.parse("vjp/exp/documents/float32/cpu/1")
NAME = "20260101-000000-abcdef"


def header(name=NAME, **fields):
    plan = [
        Entry(
            EXP,
            (
                "forward",
                "manual",
            ),
        )
    ]
    first = log.RunStarted(
        log.SCHEMA, name, "2026-01-01T00:00:00Z", {"sessions": 2}, {"cpu": "test"}, plan
    )
    return msgspec.structs.replace(first, **fields)


def session(number=0, **fields):
    entrants = [
        log.Entrant("forward", "ok", number=10, samples=[[900], [910]]),
        log.Entrant("manual", "ok", number=10, samples=[[1000], [1100]]),
    ]
    record = log.SessionMeasured(
        *(EXP, number, 1, "manual", entrants, [[0, 1], [1, 0]], "rounds", 0.1, 0.2, 0.0)
    )
    return msgspec.structs.replace(record, **fields)


def written(results, *records, first=None, name=None):
    """A log of these records. `name` is that of the file, where it is not the run's."""
    first = first or header()
    path = log.folder(results) / f"{name or first.run}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(lines.encoded, (first, *records))))
    return path


def changed(record, change):
    """The line of a record after a change of its fields, with a checksum that fits."""
    fields = msgspec.to_builtins(record, enc_hook=str)
    change(fields)
    return lines.sealed(json.dumps(fields).encode()) + b"\n"


def of_entrant(**fields):
    return lambda record: record["entrants"][1].update(fields)


def of_session(**fields):
    return lambda record: record.update(fields)


def swapped(old, new):
    return lambda record: record.update(comparison=record["comparison"].replace(old, new))


# ── one bad line ──────────────────────────────────────────────────────────────────────────────

BAD = {
    "a negative sample": of_entrant(samples=[[-5], [1100]]),
    "a sample of nothing": of_entrant(samples=[[0], [1100]]),
    "a sample of ten years": of_entrant(samples=[[315 * 10**15], [1100]]),
    "a sample that is no integer": of_entrant(samples=[[10.5], [1100]]),
    "a huge integer": of_entrant(samples=[[10**40], [1100]]),
    "samples of 0 calls": of_entrant(number=0),
    "samples of -5 calls": of_entrant(number=-5),
    "samples of 2⁶³-1 calls": of_entrant(number=2**63 - 1),
    "unequal rounds": of_entrant(samples=[[1000]]),
    "more rounds than orders": of_session(order=[[0, 1]]),
    "an order beyond the entrants": of_session(order=[[0, 7], [1, 0]]),
    "a negative order": of_session(order=[[0, -1], [1, 0]]),
    "an unknown status": of_entrant(status="splendid"),
    "a mode twice": of_entrant(mode="forward"),
    "an empty mode": of_entrant(mode=""),
    "a mode with ESC": of_entrant(mode="\x1b[31m"),
    "a mode with NUL": of_entrant(mode="a\0b"),
    "a mode of two lines": of_entrant(mode="a\nb"),
    "a huge name": of_entrant(mode="m" * 10**5),
    "a control of another mode": of_entrant(control=True, mode="other"),
    "a negative error": of_entrant(error=-1.0),
    "an unknown device": swapped("/cpu/", "/tpu/"),
    "cuda without its number": swapped("/cpu/", "/cuda/"),
    "a device number that is none": swapped("/cpu/", "/cuda:²/"),
    "an unknown dtype": swapped("float32", "float31"),
    "a size that is none": swapped("documents", "n=0"),
    "a size that says a part twice": swapped("documents", "n=1,n=2"),
    "no threads": swapped("/cpu/1", "/cpu/0"),
    "a comparison that is none": of_session(comparison="exp"),
    "a negative session": of_session(session=-1),
    "a negative process": of_session(process=-1),
    "negative seconds": of_session(elapsed=-1.0),
    "a load that is no number": of_session(load="high"),
    "a list where an object should be": of_session(entrants=[[]]),
    "an unknown kind": of_session(kind="mood"),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_a_session_out_of_range_is_named_and_costs_only_itself(tmp_path, change):
    path = written(tmp_path, session(0))
    with path.open("ab") as file:
        file.write(changed(session(1), change) + lines.encoded(session(2)))
    run = log.read(path)
    assert run.sessions == [session(0), session(2)]
    (problem,) = run.problems
    assert problem.startswith(f"{path.name}, line 3: damaged (")
    assert problem.endswith("), skipped")
    assert problem.isprintable()
    assert "regex" not in problem


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_the_same_line_of_an_old_log_costs_only_itself(tmp_path, change):
    path = written(tmp_path, first=header(schema=1))
    fields = msgspec.to_builtins(session(1), enc_hook=str)
    change(fields)
    with path.open("ab") as file:
        file.write(json.dumps(fields).encode() + b"\n" + lines.encoded(session(2)))
    run = log.read(path)
    assert run.sessions == [session(2)]
    assert len(run.problems) == 1


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"kind":"session"}',
        b'{"kind":"worker","process":1,"environment":' + b"[" * 10**5,
        b'{"kind":"end","ended":"now","finished":true,"elapsed":1e999,"visiting":0}',
        b'{"kind":"end","ended":"now","finished":true,"elapsed":NaN,"visiting":0}',
        b'{"kind":"worker","process":1,"environment":{"torch":["2"]},"started":""}',
        b'{"kind":"worker","process":1,"environment":{"device_names":"H200"},"started":""}',
        b'{"kind":"limits","process":1,"device":"tpu","threads":1,"bandwidth":1,"rates":{},"cache":0}',
        b'{"kind":"limits","process":1,"device":"cpu","threads":1,"bandwidth":0,"rates":{},"cache":0}',
        "{}".encode("utf-16"),
        b"\xff\xfe\x00" * 100,
    ],
    ids=range(14),
)
def test_a_line_that_is_none_is_named_whatever_it_is(tmp_path, line):
    path = written(tmp_path, session(0), first=header(schema=1))
    with path.open("ab") as file:
        file.write(line.replace(b"\n", b"") + b"\n" + lines.encoded(session(1)))
    run = log.read(path)
    assert len(run.sessions) == 2
    assert [problem.split(":")[0] for problem in run.problems] == [f"{path.name}, line 3"]


@pytest.mark.parametrize(
    "fields",
    [
        {"instrument": "sundial"},
        {"unit": "bananas"},
        {"values": {"manual": [-1.0]}},
        {"values": {"": [1.0]}},
        {"comparison": "exp"},
    ],
)
def test_a_reading_out_of_range_is_named(tmp_path, fields):
    good = log.Reading(EXP, 0, 1, "flops", "operations", {"manual": [3.0]})
    path = written(tmp_path, good, msgspec.structs.replace(good, session=1, **fields))
    run = log.read(path)
    assert run.readings == [good]
    assert "line 3" in run.problems[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"run": "../evil"},
        {"run": ""},
        {"schema": 0},
        {"machine": {"cpu": 5}},
        {"machine": {"memory": -1}},
        {"plan": [Entry(EXP.on("tpu"), ("manual",))]},
        {
            "plan": [
                Entry(
                    EXP,
                    (
                        "manual",
                        "manual",
                    ),
                )
            ]
        },
        {"plan": [Entry(EXP, ("manual",))] * 2},
        {"digests": {"a.py": "x"}},
    ],
    ids=str,
)
def test_a_first_line_out_of_range_costs_its_file_and_no_other(tmp_path, fields):
    good = written(tmp_path, session(0))
    written(tmp_path, first=header(**fields), name="bad")
    runs, problems = log.read_all(tmp_path)
    assert [run.path for run in runs] == [good]
    assert len(problems) == 1
    assert problems[0].startswith("bad.jsonl: ")
    assert [h.path for h in log.read_headers(tmp_path)[0]] == [good]


def test_a_bad_line_breaks_no_command_for_the_other_runs(tmp_path, capsys):
    bad = written(tmp_path, session(0), first=header("20260101-000000-000001"))
    with bad.open("ab") as file:
        for number, change in enumerate(BAD.values()):
            file.write(changed(session(1 + number), change))
    written(tmp_path, session(0), session(1), first=header("20260101-000000-000002"))
    for command in (["show"], ["show", bad.stem], ["export", "-t", str(tmp_path / "cases.csv")]):
        cli.main([*command, "--results", str(tmp_path)], standalone_mode=False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        frame = gradbench.load(tmp_path)
    assert len(said) == 1 + min(len(BAD), logs.MOST_PROBLEMS)
    assert "line 3: damaged" in str(said[0].message)
    assert set(frame["run"]) == {"20260101-000000-000001", "20260101-000000-000002"}
    err = capsys.readouterr().err
    assert "Traceback" not in err


def test_many_damaged_lines_are_counted_rather_than_listed(tmp_path):
    path = written(tmp_path)
    with path.open("ab") as file:
        file.write(b"x\n" * 1000)
    run = log.read(path)
    assert len(run.problems) == logs.MOST_PROBLEMS + 1
    assert (
        run.problems[-1]
        == f"{path.name}: {1000 - logs.MOST_PROBLEMS} more lines like these, skipped"
    )


# ── checksums ─────────────────────────────────────────────────────────────────────────────────


def test_each_line_is_json_with_a_checksum(tmp_path):
    path = written(tmp_path, session(0))
    for line in path.read_bytes().splitlines():
        assert set(json.loads(line)["crc32"]) <= set("0123456789abcdef")


def test_a_changed_number_is_never_believed(tmp_path):
    path = written(tmp_path, session(0), session(1))
    good = path.read_bytes()
    assert b"1100" in good
    path.write_bytes(good.replace(b"1100", b"1000", 1))
    run = log.read(path)
    assert run.sessions == [session(1)]
    assert "line 2: damaged (its checksum does not fit)" in run.problems[0]


def test_a_line_without_a_checksum_is_damaged_from_schema_2_on(tmp_path):
    path = written(tmp_path, session(0))
    with path.open("ab") as file:
        file.write(msgspec.json.encode(session(1), enc_hook=str) + b"\n")
    assert log.read(path).sessions == [session(0)]
    path.write_bytes(msgspec.json.encode(header(), enc_hook=str) + b"\n")
    with pytest.raises(log.StoreError, match="has no checksum"):
        log.read(path)


def test_an_old_log_is_read_resumed_and_stays_an_old_log(tmp_path):
    path = written(tmp_path, first=header(schema=1))
    plain = [msgspec.json.encode(record, enc_hook=str) for record in (header(schema=1), session(0))]
    path.write_bytes(b"\n".join(plain) + b"\n")
    with log.KIND.reopen(log.read(path)) as opened:
        opened.append(session(1))
    run = log.read(path)
    assert run.sessions == [session(0), session(1)]
    assert not run.problems
    # What was appended has a checksum, and it counts.
    path.write_bytes(path.read_bytes().replace(b'"session":1', b'"session":5'))
    run = log.read(path)
    assert run.sessions == [session(0)]
    assert "its checksum does not fit" in run.problems[0]


def test_every_committed_file_is_read_without_a_problem():
    from pathlib import Path

    results = Path(__file__).parents[1] / "results"
    for reader in (log.read_all, studies.read_all):
        found, problems = reader(results)
        assert len(found) > 2
        assert not problems
        assert not [problem for one in found for problem in one.problems]
    assert not tracks.read_all(results)[1]


# ── the same twice ────────────────────────────────────────────────────────────────────────────


def test_what_stands_twice_in_a_run_counts_once_and_is_named(tmp_path):
    worker = log.WorkerStarted(1, {"torch": "2.9.0"}, log.now())
    reading = log.Reading(EXP, 0, 1, "flops", "operations", {"manual": [3.0]})
    other = msgspec.structs.replace(reading, values={"manual": [9.0]})
    limits = log.Limits(1, "cpu", 1, 1e9, {"float32": 1e9}, 1 << 20)
    end = log.RunEnded("now", True, 5.0, 4.0)
    once = [worker, session(0), session(1), reading, limits, end]
    path = written(tmp_path, *once, *once, msgspec.structs.replace(worker, environment={}), other)
    run = log.read(path)
    assert run.sessions == [session(0), session(1)]
    assert (run.workers, run.readings, run.limits, run.ends) == (
        [worker],
        [reading],
        [limits],
        [end],
    )
    assert len(run.problems) == len(once) + 2
    assert "line 8: the same as line 2 (worker, 1), counted once" in run.problems[0]


def test_a_log_in_another_log_is_named_and_not_believed(tmp_path):
    path = written(tmp_path, session(0))
    both = path.read_bytes()
    other = b"".join(map(lines.encoded, (header("20260101-000000-ffffff"), session(1), session(2))))
    path.write_bytes(both + both + other)
    run = log.read(path)
    assert run.sessions == [session(0)]
    assert len(run.problems) == 3
    assert "line 5: another run log begins here (20260101-000000-ffffff)" in run.problems[2]


def test_a_copied_log_counts_once_and_is_named(tmp_path):
    path = written(tmp_path, session(0))
    for name in ("a", "b"):
        path.with_name(f"{name}.jsonl").write_bytes(path.read_bytes())
    path.rename(path.with_name("z.jsonl"))
    runs, problems = log.read_all(tmp_path)
    assert [run.path.name for run in runs] == ["a.jsonl"]
    assert sorted(problem.split(":")[0] for problem in problems) == ["b.jsonl", "z.jsonl"]
    path.with_name("z.jsonl").rename(path)
    headers, problems = log.read_headers(tmp_path)
    assert [h.path for h in headers] == [path]
    with pytest.warns(UserWarning, match="the same run log as"):
        assert len(gradbench.load(tmp_path)) == 2
    with pytest.warns(UserWarning, match="the same run log as"):
        assert len(gradbench.load(tmp_path, runs=["a", "b"])) == 2
    assert len(gradbench.load(tmp_path, runs=["a", "a"])) == 2


# ── tracks and studies ────────────────────────────────────────────────────────────────────────


def track_header(**fields):
    plan = [Entry(EXP, ("manual",))]
    first = tracks.TrackStarted(
        *(tracks.SCHEMA, NAME, "now", {}, {"cpu": "test"}, plan, "2.9.0", [["2.9.0", "2.8.0"]])
    )
    return msgspec.structs.replace(first, **fields)


def used(name="2.9.0", **fields):
    record = tracks.EnvironmentUsed(name, name, "2025-10-15", {"torch": name})
    return msgspec.structs.replace(record, **fields)


def part(number=0, **fields):
    sides = [
        tracks.Side(name, log.Entrant("manual", "ok", number=10, samples=[[1000], [1100]]))
        for name in ("2.9.0", "2.8.0")
    ]
    case = tracks.CaseMeasured("manual", sides, "rounds")
    record = tracks.PartMeasured(EXP, number, 0, [case], 1.0, 2.0, 0.1)
    return msgspec.structs.replace(record, **fields)


def track_of(results, *records, first=None):
    path = tracks.folder(results) / f"{NAME}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(lines.encoded, (first or track_header(), *records))))
    return path


def unequal_sides():
    sides = part().cases[0].sides
    short = msgspec.structs.replace(sides[1].entrant, samples=[[1000]])
    return [tracks.CaseMeasured("manual", [sides[0], tracks.Side("2.8.0", short)], "rounds")]


BAD_IN_TRACKS = {
    "a group that is none": part(1, group=3),
    "unequal rounds": part(1, cases=unequal_sides()),
    "a build twice": part(
        1, cases=[tracks.CaseMeasured("manual", part().cases[0].sides[:1] * 2, "rounds")]
    ),
    "a mode twice": part(1, cases=part().cases * 2),
    "a build of no group": used("2.7.0"),
    "an unknown device": part(1, comparison=EXP.on("tpu")),
    "a date that is none": used("2.8.0", date="2025-99-99"),
    "a date of words": used("2.8.0", date="tomorrow"),
    "a version that is none": used("2.8.0", identity={"torch": "new"}),
    "no version": used("2.8.0", identity={}),
    "a reading of an unknown build": tracks.ReadingMade(
        "2.0.0", log.Reading(EXP, 0, 0, "flops", "operations", {})
    ),
}


@pytest.mark.parametrize("record", BAD_IN_TRACKS.values(), ids=BAD_IN_TRACKS.keys())
def test_a_line_of_a_track_out_of_range_is_named_and_costs_only_itself(tmp_path, record):
    path = track_of(tmp_path, used(), part(0), record, part(2))
    track = tracks.read(path)
    assert track.parts == [part(0), part(2)]
    assert list(track.environments) == ["2.9.0"]
    (problem,) = track.problems
    assert problem.startswith(f"{path.name}, line 4: damaged (")


def test_what_stands_twice_in_a_track_or_a_study_counts_once_and_is_named(tmp_path):
    reading = tracks.ReadingMade("2.9.0", log.Reading(EXP, 0, 0, "flops", "operations", {}))
    end = Ended("now", True, 5.0)
    once = [used(), part(0), part(1), reading, end]
    track = tracks.read(track_of(tmp_path, *once, *once))
    assert (track.parts, track.readings, track.ends) == ([part(0), part(1)], [reading], [end])
    assert len(track.problems) == len(once)

    opened, study = studies.begin(tmp_path, "aa", {}, {}, {}, [])
    trial = studies.Trial("k", "process", EXP.case("manual"), 0, 0, log_ratios=[1, 2])
    with opened:
        for _ in range(5):
            opened.append(trial)
    study = studies.read(study.path)
    assert study.trials == [trial]
    assert len(study.problems) == 4


# ── odd files ─────────────────────────────────────────────────────────────────────────────────


def odd_files(place):
    """Everything that is no log and is called like one; the names of what was made."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "00-folder.jsonl").mkdir()
    os.mkfifo(place / "01-fifo.jsonl")
    (place / "02-dead.jsonl").symlink_to(place / "nowhere")
    (place / "03-loop.jsonl").symlink_to(place / "03-loop.jsonl")
    (place / "04-empty.jsonl").touch()
    (place / "05-newline.jsonl").write_bytes(b"\n")
    (place / "06-short.jsonl").write_bytes(b"{")
    (place / "07-zeros.jsonl").write_bytes(bytes(10**5))
    (place / "08-random.jsonl").write_bytes(os.urandom(10**5))
    (place / "09-utf16.jsonl").write_text('{"kind": "run"}\n', encoding="utf-16")
    (place / "10-deep.jsonl").write_bytes(b'{"a":' * 10**5 + b"\n")
    (place / "11-list.jsonl").write_bytes(b"[1, 2]\n")
    (place / "12-session.jsonl").write_bytes(lines.encoded(session()))
    (place / "13-device.jsonl").symlink_to("/dev/zero")
    (place / "14-link-to-fifo.jsonl").symlink_to(place / "01-fifo.jsonl")
    (place / "notes.txt").write_text("hello")
    (place / "notes-fifo").symlink_to(place / "01-fifo.jsonl")
    with socket.socket(socket.AF_UNIX) as made:
        here = os.getcwd()
        # The path of a socket has a limit that a test's folder may be beyond.
        os.chdir(place)
        try:
            made.bind("15-socket.jsonl")
        finally:
            os.chdir(here)
    return sorted(path.name for path in place.iterdir())


@pytest.mark.parametrize("kind", [log, tracks, studies])
def test_odd_files_are_named_and_skipped_in_every_folder(tmp_path, kind):
    made = odd_files(kind.folder(tmp_path))
    found, problems = kind.read_all(tmp_path)
    assert not found
    assert sorted(problem.split(" ")[0].rstrip(":") for problem in problems) == made
    assert all(problem.endswith(", skipped") for problem in problems)
    if kind is log:
        assert kind.read_headers(tmp_path)[0] == []
        assert len(kind.read_headers(tmp_path)[1]) == len(made)


def test_odd_files_hide_no_run(tmp_path, capsys):
    odd_files(log.folder(tmp_path))
    path = written(tmp_path, session(0), session(1))
    assert log.locate(tmp_path, "latest") == path
    cli.main(["show", "--results", str(tmp_path)], standalone_mode=False)
    assert "01-fifo.jsonl is a FIFO, not a file, skipped" in capsys.readouterr().err


def test_an_odd_file_that_is_asked_for_is_an_error_in_one_line(tmp_path):
    for name in odd_files(log.folder(tmp_path)):
        with pytest.raises(log.StoreError) as raised:
            log.find(tmp_path, str(log.folder(tmp_path) / name))
        assert "\n" not in str(raised.value)
        if name.endswith(".jsonl"):
            with pytest.raises(log.StoreError):
                lines.LineLog.opened(log.folder(tmp_path) / name, new=True)
    with pytest.raises(log.StoreError):
        log.find(tmp_path, "x" * 5000 + ".jsonl")
    with pytest.raises(log.StoreError):
        log.find(tmp_path, "a\0b.jsonl")


def test_a_line_that_is_too_long_is_named_and_the_next_one_counts(tmp_path, monkeypatch):
    path = written(tmp_path, session(0))
    with path.open("ab") as file:
        file.write(b"x" * 5000 + b"\n" + lines.encoded(session(1)))
    monkeypatch.setattr(lines, "LONGEST_LINE", 2000)
    run = log.read(path)
    assert run.sessions == [session(0), session(1)]
    assert "line 3: more than" in run.problems[0]


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(log.StoreError, match="cannot read"):
        log.read_all(tmp_path)

    def denied(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", denied)
    for kind in (log, tracks, studies):
        with pytest.raises(log.StoreError, match=r"cannot read .*: Permission denied"):
            kind.read_all(tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    path = written(tmp_path, session(0))
    other = written(tmp_path, session(0), first=header("20260101-000000-ffffff"))
    real = os.open

    def denied(file, *arguments):
        if file == path:
            raise PermissionError(13, "Permission denied")
        return real(file, *arguments)

    monkeypatch.setattr(os, "open", denied)
    runs, problems = log.read_all(tmp_path)
    assert [run.path for run in runs] == [other]
    assert problems == [f"{path.name}: Permission denied, skipped"]


# ── writing ───────────────────────────────────────────────────────────────────────────────────


def test_no_text_and_no_number_ends_a_run(tmp_path):
    evil = "cannot read caf\udce9 \x1b[31m\0\u202e"
    with log.KIND.create(
        log.folder(tmp_path), header(command=[evil], files=["a\udcff.py"])
    ) as opened:
        opened.append(
            log.WorkerStarted(
                1, {"torch": "2", evil: evil, "x": float("nan"), "y": {1, 2}, "z": 2**70}, log.now()
            )
        )
        entrants = [log.Entrant("manual", "failed", evil, evil, float("nan"), float("inf"))]
        opened.append(session(0, entrants=entrants, order=[], load=float("nan")))
        values = {"manual": [float("inf"), float("nan")]}
        opened.append(log.Reading(EXP, 0, 1, "flops", "operations", values, {"grad": evil}))
    run = log.read(opened.path)
    assert not run.problems
    assert run.sessions[0].entrants[0].reason == r"cannot read caf\udce9 \x1b[31m\x00\u202e"
    assert run.sessions[0].entrants[0].error == 1e308
    assert run.readings[0].values == {"manual": [1e308, 1e308]}


def test_an_overlong_message_is_stored_shortened(tmp_path):
    entrants = [log.Entrant("manual", "failed", "x" * 10**7)]
    with log.KIND.create(log.folder(tmp_path), header()) as opened:
        opened.append(session(0, entrants=entrants, order=[]))
    (found,) = log.read(opened.path).sessions
    assert len(found.entrants[0].reason) < 10**5
    assert opened.path.stat().st_size < 10**5


# ── locks ─────────────────────────────────────────────────────────────────────────────────────


def add_lines(path, times):
    """Opens a log again and again, and adds two lines to it each time that nobody else holds it.

    Whoever comes between the two lines of another breaks the pair."""
    mine = f"{os.getpid()}-{threading.get_ident()}"
    done = 0
    while done < times:
        try:
            opened, _ = lines.LineLog.opened(path, new=False)
        except lines.StoreError:
            continue
        with opened:
            for half in (0, 1):
                opened.append(Resumed(f"{mine} {done} {half}"))
        done += 1


def test_two_writers_never_hold_one_log(tmp_path):
    path = written(tmp_path)
    start = multiprocessing.get_context("spawn")
    working = [start.Process(target=add_lines, args=(path, 40)) for _ in range(2)]
    working += [threading.Thread(target=add_lines, args=(path, 40)) for _ in range(3)]
    for one in working:
        one.start()
    for one in working:
        one.join(120)
    made = [
        json.loads(line)["started"].rsplit(" ", 1) for line in path.read_text().splitlines()[1:]
    ]
    assert len(made) == 5 * 40 * 2
    for first, second in zip(made[::2], made[1::2]):
        assert (first[0], first[1], second[1]) == (second[0], "0", "1")


def test_a_log_is_held_under_whatever_name_it_has(tmp_path):
    with log.KIND.create(log.folder(tmp_path), header()) as opened:
        link = opened.path.with_name("link.jsonl")
        link.symlink_to(opened.path)
        with pytest.raises(log.StoreError, match="another process"):
            lines.LineLog.opened(link, new=False)
    lines.LineLog.opened(link, new=False)[0].close()
    assert sorted(p.name for p in opened.path.parent.iterdir()) == [opened.path.name, "link.jsonl"]


def test_what_another_process_finished_meanwhile_is_not_resumed(tmp_path):
    path = written(tmp_path, session(0))
    before = log.read(path)
    with log.KIND.reopen(before) as opened:
        opened.append(log.RunEnded("now", True, 1.0, 1.0))
    with pytest.raises(log.StoreError, match="nothing to resume"):
        log.KIND.reopen(before)
    assert log.read(path).finished


def test_a_log_whose_first_line_is_torn_is_left_alone(tmp_path):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    before = path.read_bytes()
    with pytest.raises(log.StoreError, match="first line is cut off"):
        lines.LineLog.opened(path, new=False)
    assert path.read_bytes() == before


# ── files that are executed ───────────────────────────────────────────────────────────────────


@pytest.fixture
def interrupted(tmp_path):
    """An interrupted run with a file of the user's, and what resuming it would execute."""
    own = tmp_path / "own.py"
    own.write_text("print('hello')\n")
    first = header(files=[str(own)], digests=executed.digests([str(own)]))
    path = written(tmp_path, session(0), first=first)

    def asked(given=(), path=path, stated=first.digests):
        said = []
        run = log.Run(path, msgspec.structs.replace(first, digests=stated))
        files = executed.executed(log.KIND, run, tmp_path, first.files, given, said.append)
        return files, said

    return own, path, asked


def test_an_unchanged_file_is_executed_and_named(interrupted):
    own, path, asked = interrupted
    assert asked() == ((str(own),), [f"Executing {own}, unchanged since {path.stem} began"])


@pytest.mark.parametrize("change", ["edited", "gone", "a folder", "a FIFO"])
def test_a_file_that_is_not_what_it_was_has_to_be_named_again(interrupted, change):
    own, path, asked = interrupted
    own.unlink()
    if change == "edited":
        own.write_text("print('evil')\n")
    elif change == "a folder":
        own.mkdir()
    elif change == "a FIFO":
        os.mkfifo(own)
    with pytest.raises(log.StoreError) as raised:
        asked()
    said = str(raised.value)
    assert str(own) in said
    assert f"gradbench run --resume {path.stem} --from={own}" in said
    assert "\n" not in said


def test_a_log_without_digests_or_from_elsewhere_executes_nothing_unasked(interrupted, tmp_path):
    own, path, asked = interrupted
    with pytest.raises(log.StoreError, match="does not say what was in"):
        asked(stated={})
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_bytes(path.read_bytes())
    with pytest.raises(log.StoreError, match="is not one of your own logs"):
        asked(path=elsewhere)
    assert asked(given=[str(own)], stated={})[0] == (str(own),)


def test_a_changed_file_that_is_named_again_is_executed_with_a_note(interrupted):
    own, _, asked = interrupted
    own.write_text("print('changed')\n")
    files, (said,) = asked(given=[str(own)])
    assert files == (str(own),)
    assert "has changed since" in said


@pytest.mark.parametrize("kind", ["run", "releases track", "study aa"])
def test_no_command_resumes_with_a_changed_file(tmp_path, kind):
    own = tmp_path / "own.py"
    mark = tmp_path / "executed"
    own.write_text("")
    digests = executed.digests([str(own)])
    if kind == "run":
        path = written(tmp_path, first=header(files=[str(own)], digests=digests))
    elif kind == "releases track":
        path = track_of(tmp_path, first=track_header(files=[str(own)], digests=digests))
    else:
        opened, study = studies.begin(tmp_path, "aa", {"files": [str(own)]}, {}, {}, [])
        opened.close()
        path = study.path
    own.write_text(f"open({str(mark)!r}, 'w')\n")
    with pytest.raises(click.ClickException, match="has changed since"):
        cli.main(
            [*kind.split(), "--resume", path.stem, "--results", str(tmp_path)],
            standalone_mode=False,
        )
    assert not mark.exists()


def test_lines_that_were_taken_out_are_named(tmp_path):
    """Each line states its number, so those that are left tell what is gone."""
    with log.KIND.create(log.folder(tmp_path), header()) as opened:
        for number in range(5):
            opened.append(session(number))
    path = opened.path
    whole = path.read_bytes().splitlines(keepends=True)
    assert log.read(path).problems == []
    for gone, said in (((2,), "before line 3: 1 line missing"), ((2, 3), "before line 3: 2 lines")):
        path.write_bytes(b"".join(line for i, line in enumerate(whole) if i not in gone))
        (problem,) = log.read(path).problems
        assert said in problem
    # A copy and a damaged line are named as such, and hide nothing.
    path.write_bytes(b"".join([*whole[:2], whole[1], b"{}\n", *whole[4:]]))
    assert len(log.read(path).problems) == 3


@pytest.mark.parametrize(("function", "kept"), [("fsync", 2), ("write", 1)])
def test_ctrl_c_keeps_a_line_that_is_whole(tmp_path, monkeypatch, function, kept):
    def interrupted(*arguments):
        monkeypatch.undo()
        raise KeyboardInterrupt

    with log.KIND.create(log.folder(tmp_path), header()) as opened:
        opened.append(session(0))
        with monkeypatch.context() as patched:
            patched.setattr(os, function, interrupted)
            with pytest.raises(KeyboardInterrupt):
                opened.append(session(1))
        monkeypatch.undo()
        opened.append(session(2))
    run = log.read(opened.path)
    assert run.problems == []
    assert [s.session for s in run.sessions] == [*range(kept), 2]
