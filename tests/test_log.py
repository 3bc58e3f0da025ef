"""Run logs: whole lines or none, and damage that is named instead of believed."""

import errno
import gzip
import lzma
import os

import pytest

from gradbench.core.cases import Comparison, Entry
from gradbench.store import lines
from gradbench.store import runs as log

EXP = Comparison.parse("vjp/exp/documents/float32/cpu/1")


def header(name="20260101-000000-abcdef"):
    return log.RunStarted(
        schema=log.SCHEMA,
        run=name,
        started="2026-01-01T00:00:00Z",
        settings={"sessions": 1},
        machine={"cpu": "test"},
        plan=[
            Entry(
                EXP,
                (
                    "forward",
                    "manual",
                ),
            )
        ],
    )


def session(number=0):
    return log.SessionMeasured(
        comparison=EXP,
        session=number,
        process=1,
        baseline="manual",
        entrants=[log.Entrant("manual", "ok", number=10, samples=[[1000, 1100], []])],
        order=[[0], []],
        stopped="rounds",
        visiting=0.1,
        elapsed=0.2,
        load=0.0,
    )


@pytest.fixture
def written(tmp_path):
    with log.KIND.create(log.folder(tmp_path), header()) as opened:
        opened.append(log.WorkerStarted(1, {"torch": "9.9"}, log.now()))
        opened.append(session(0))
        opened.append(session(1))
    return tmp_path, opened.path


def test_what_was_written_is_read_again(written):
    results, path = written
    run = log.read(path)
    assert run.sessions == [session(0), session(1)]
    assert [s.comparison.function for s in run.sessions] == ["exp", "exp"]
    assert run.environment(1) == {"torch": "9.9"}
    assert not run.problems
    assert not run.finished
    assert log.locate(results, "latest") == log.locate(results, "2026") == path


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_log_cut_anywhere_in_its_last_line_keeps_the_rest(written, cut):
    _, path = written
    path.write_bytes(path.read_bytes()[:-cut])
    run = log.read(path)
    assert run.sessions == [session(0)]
    assert len(run.problems) == 1
    assert path.name in run.problems[0]


def test_resuming_cuts_off_the_torn_line_and_goes_on(written):
    _, path = written
    path.write_bytes(path.read_bytes()[:-20])
    with log.KIND.reopen(log.read(path)) as opened:
        opened.append(session(1))
    run = log.read(path)
    assert run.done() == {(session().comparison, 0), (session().comparison, 1)}
    assert not run.problems


def test_a_damaged_line_in_the_middle_is_named_and_skipped(written):
    _, path = written
    lines = path.read_bytes().split(b"\n")
    lines[2] = b'{"kind":"session","comparison":\xff\xfe'
    path.write_bytes(b"\n".join(lines))
    run = log.read(path)
    assert run.sessions == [session(1)]
    assert "line 3" in run.problems[0]


def test_foreign_and_broken_files_are_named_and_skipped(written):
    results, path = written
    place = log.folder(results)
    (place / "notes.txt").write_text("hello")
    (place / "00-empty.jsonl").write_text("")
    (place / "01-foreign.jsonl").write_text('{"a": 1}\n')
    (place / "02-binary.jsonl").write_bytes(b"\x00\xff\x93" * 700)
    (place / "03-list.jsonl").write_text("[]\n")
    runs, problems = log.read_all(results)
    assert [run.path for run in runs] == [path]
    assert {problem.split(":")[0] for problem in problems} == {
        "notes.txt",
        "00-empty.jsonl",
        "01-foreign.jsonl",
        "02-binary.jsonl",
        "03-list.jsonl",
    }
    headers, same = log.read_headers(results)
    assert [h.path for h in headers] == [path]
    assert same == problems


def test_a_newer_schema_is_refused_by_name(tmp_path):
    newer = log.msgspec.structs.replace(header(), schema=log.SCHEMA + 1)
    with log.KIND.create(log.folder(tmp_path), newer):
        pass
    with pytest.raises(log.StoreError, match="newer gradbench"):
        log.read(log.paths(tmp_path)[0])


def test_unknown_fields_of_a_later_version_are_no_damage(written):
    _, path = written
    plain = [line[: line.rindex(b",")] + b"}" for line in path.read_bytes().splitlines()]
    newer = [line.replace(b'"load":0.0', b'"load":0.0,"mood":"fine"') for line in plain]
    path.write_bytes(b"".join(lines.sealed(line) + b"\n" for line in newer))
    run = log.read(path)
    assert len(run.sessions) == 2
    assert not run.problems


def test_a_run_in_progress_cannot_be_resumed_by_another(tmp_path):
    with log.KIND.create(log.folder(tmp_path), header()) as opened:
        run = log.read(opened.path)
        with pytest.raises(log.StoreError, match="another process"):
            log.KIND.reopen(run)
    log.KIND.reopen(run).close()


def test_two_runs_never_share_a_file(tmp_path):
    with (
        log.KIND.create(log.folder(tmp_path), header()),
        pytest.raises(log.StoreError),
    ):
        log.KIND.create(log.folder(tmp_path), header())
    assert lines.new_id() != lines.new_id()


def test_a_full_disk_leaves_whole_lines_and_one_clear_error(tmp_path, monkeypatch):
    real = os.write
    with log.KIND.create(log.folder(tmp_path), header()) as opened:
        opened.append(session(0))

        calls = iter([50])

        def once(descriptor, data):
            for count in calls:
                return real(descriptor, bytes(data)[:count])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", once)
        with pytest.raises(log.StoreError, match="No space left on device"):
            opened.append(session(1))
        monkeypatch.undo()
        opened.append(session(2))
    run = log.read(opened.path)
    assert [s.session for s in run.sessions] == [0, 2]
    assert not run.problems


def test_names_that_fit_none_or_several(written):
    results, _ = written
    with log.KIND.create(log.folder(results), header("20260101-000000-ffffff")):
        pass
    with pytest.raises(log.StoreError, match="matches 2 runs"):
        log.locate(results, "20260101")
    with pytest.raises(log.StoreError, match="no run named 'x'"):
        log.locate(results, "x")
    elsewhere = log.folder(results / "elsewhere")
    with pytest.raises(log.StoreError, match="there are no runs"):
        log.locate(results / "elsewhere", "latest")
    elsewhere.mkdir(parents=True)
    (elsewhere / "20260101-000000-ffffff.jsonl").write_bytes(b"")
    (elsewhere / "20260102-000000-ffffff.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(log.StoreError, match=r"there are no runs.*20260102.*its first line is dam"):
        log.locate(results / "elsewhere", "latest")


def test_visit_minima_per_call_in_seconds():
    entrant = log.Entrant("grad", "ok", number=10, samples=[[1000, 900], [], [500]])
    times = entrant.visits.wall
    assert times[0] == pytest.approx(9e-8)
    assert times[1] != times[1]
    assert times[2] == pytest.approx(5e-8)


# ── compressed logs ───────────────────────────────────────────────────────────────────────────

PACKINGS = {".gz": gzip.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_compressed_log_is_read_like_a_plain_one(written, packing):
    results, path = written
    plain = log.read(path)
    packed = path.with_name(path.name + packing)
    packed.write_bytes(PACKINGS[packing](path.read_bytes()))
    # Beside the plain one it is a copy, and the plain one is what a name means.
    assert log.find(results, path.stem).path == path
    runs, problems = log.read_all(results)
    assert [run.path for run in runs] == [path]
    assert problems == [f"{packed.name}: the same run log as {path.name}, skipped"]
    path.unlink()
    for name in (path.stem, path.stem[:8], "latest", str(packed)):
        found = log.find(results, name)
        assert (found.path, found.name) == (packed, plain.name)
        assert (found.sessions, found.problems) == (plain.sessions, [])
    headers, problems = log.read_headers(results)
    assert [(h.path, h.name, h.finished) for h in headers] == [(packed, plain.name, plain.finished)]
    assert problems == []
    with pytest.raises(log.StoreError, match=r"jsonl\.\w+ is compressed; decompress it to go on"):
        log.KIND.reopen(found)


def test_of_a_compressed_log_that_was_cut_off_the_lines_before_count(written):
    results, path = written
    whole = gzip.compress(path.read_bytes())
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(whole[:-4])
    path.unlink()
    run = log.find(results, "latest")
    assert len(run.sessions) == 2
    (problem,) = run.problems
    assert problem.startswith(f"{packed.name}: its compressed data are cut off")


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("damage", ["cut", "overwritten", "plain", "empty"])
def test_a_damaged_compressed_log_is_one_line_and_hides_no_other(written, packing, damage):
    results, path = written
    whole = PACKINGS[packing](path.read_bytes())
    content = {
        # Before the end of the first line, which names the run.
        "cut": whole[: len(whole) // 4],
        "overwritten": whole[:30] + b"no such data" + whole[42:],
        "plain": path.read_bytes(),
        "empty": b"",
    }[damage]
    packed = path.with_name("20250101-000000-aaaaaa.jsonl" + packing)
    packed.write_bytes(content)
    runs, problems = log.read_all(results)
    assert [run.path for run in runs] == [path]
    (problem,) = problems
    assert problem.startswith(f"{packed.name}: ")
    assert problem.endswith(", skipped")
    assert "\n" not in problem
    why = {"cut": "cut off", "overwritten": "damaged", "plain": "damaged", "empty": ""}[damage]
    assert why in problem
