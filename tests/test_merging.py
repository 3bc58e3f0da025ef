"""Results folders put together: nothing is lost, nothing stands twice, nothing is half-written."""

import errno
import gzip
import itertools
import json
import lzma
import os
import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_process import gradbench
from test_store import NAME, header, part, session, track_header, used, written

from gradbench.store import lines, merging, runs, studies, tracks
from gradbench.store.lines import StoreError
from gradbench.store.merging import What, merge

END = runs.RunEnded("2026-01-01T00:01:00Z", True, 60.0, 30.0)


def worker(process=1, **facts):
    environment = {"torch": "2.13.0", "pid": 100 + process, **facts}
    return runs.WorkerStarted(process, environment, "2026-01-01T00:00:01Z")


def numbered(*records):
    """Lines as a log has them."""
    return b"".join(lines.encoded(record, n) for n, record in enumerate(records, 1))


def log(results, *records, first=None, file=""):
    """A run log of these records in a results folder."""
    first = first or header()
    path = runs.folder(results) / (file or f"{first.name}.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(numbered(first, *records))
    return path


def merged(*folders, into):
    """What became of each log, and all runs that are there then."""
    done = merge(folders, into)
    found, problems = runs.read_all(into)
    assert not problems
    return [what for _, what in done.outcomes], found


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def named(name):
    return header(f"20260101-000000-{name}")


def test_every_kind_of_log_is_copied_as_it_is(tmp_path):
    one, two, into = tmp_path / "one", tmp_path / "two", tmp_path / "all"
    log(one, worker(), session(0), END)
    packed = log(two, worker(), session(0), session(1), first=named("aaaaaa"))
    runs.folder(two).joinpath(f"{packed.name}.xz").write_bytes(lzma.compress(packed.read_bytes()))
    packed.unlink()
    track = track_header()
    place = tracks.folder(two) / f"{track.name}.jsonl"
    place.parent.mkdir()
    place.write_bytes(numbered(track, used(), part(0)))
    settings = {"neighbour": "none", "between": False, "seed": 0}
    study = studies.StudyStarted(2, "aa", "aa-1", "now", settings, {}, {}, [])
    place = studies.folder(one) / "aa-1.jsonl"
    place.parent.mkdir()
    place.write_bytes(numbered(study))
    done = merge([one, two], into)
    assert sorted(done.outcomes) == sorted(
        [("run", What.ADDED)] * 2 + [("track", What.ADDED), ("study", What.ADDED)]
    )
    assert files(into) == files(one) | files(two)
    assert not done.notes + done.left_out


def test_merging_again_adds_nothing(tmp_path):
    one, into = tmp_path / "one", tmp_path / "all"
    log(one, worker(), session(0))
    merge([one], into)
    before = files(into)
    assert merge([one, one], into).outcomes == [("run", What.THERE)] * 2
    assert files(into) == before


@pytest.mark.parametrize("packing", ["", ".gz", ".xz"])
@pytest.mark.parametrize("first", ["short", "long"])
def test_of_a_log_in_two_states_the_longer_one_stays(tmp_path, first, packing):
    folders = {name: tmp_path / name for name in ("short", "long")}
    log(folders["short"], worker(), session(0))
    path = log(folders["long"], worker(), session(0), session(1), END)
    if packing:
        pack = {".gz": gzip.compress, ".xz": lzma.compress}[packing]
        Path(f"{path}{packing}").write_bytes(pack(path.read_bytes()))
        path.unlink()
    order = [folders.pop(first), *folders.values()]
    whats, (run,) = merged(*order, into=tmp_path / "all")
    assert whats == [What.ADDED, What.COMPLETED if first == "short" else What.THERE]
    assert run.sessions == [session(0), session(1)]
    assert run.finished
    assert len(files(tmp_path / "all")) == 1


def test_a_line_that_a_kill_left_torn_is_no_difference(tmp_path):
    one, two, into = tmp_path / "one", tmp_path / "two", tmp_path / "all"
    torn = log(one, worker(), session(0))
    with torn.open("ab") as file:
        file.write(lines.encoded(session(1), 4)[:50])
    log(two, worker(), session(0), session(1))
    whats, (run,) = merged(one, two, into=into)
    assert whats == [What.ADDED, What.COMPLETED]
    assert len(run.sessions) == 2
    assert not run.problems


def test_copies_that_were_both_resumed_are_joined(tmp_path):
    """Each was gone on with on its own machine: both sessions 1 are kept, each with its process."""
    one, two, into = tmp_path / "one", tmp_path / "two", tmp_path / "all"
    here, there = worker(2, node="here"), worker(2, node="there")
    log(one, worker(), session(0), here, session(1, process=2, load=1.0))
    log(two, worker(), session(0), there, session(1, process=2, load=2.0), END)
    whats, (run,) = merged(one, two, into=into)
    assert whats == [What.ADDED, What.JOINED]
    assert [(s.session, s.load) for s in run.sessions] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    nodes = {s.load: run.environment(s.process).get("node") for s in run.sessions[1:]}
    assert nodes == {1.0: "here", 2.0: "there"}
    assert run.finished
    assert not run.problems
    before = files(into)
    assert merged(one, two, into=into)[0] == [What.THERE] * 2
    assert files(into) == before


def test_a_damaged_copy_is_mended_by_another(tmp_path):
    one, two, into = tmp_path / "one", tmp_path / "two", tmp_path / "all"
    path = log(one, worker(), session(0), session(1))
    path.write_bytes(path.read_bytes().replace(b"[900]", b"[901]", 1))
    log(two, worker(), session(0), session(1))
    merge([one, two], into)
    (run,), _ = runs.read_all(into)
    assert sorted(s.session for s in run.sessions) == [0, 1]
    assert session(0) in run.sessions


def test_unlike_logs_of_one_name_stand_side_by_side(tmp_path):
    one, two, into = tmp_path / "one", tmp_path / "two", tmp_path / "all"
    log(one, worker(), session(0))
    other = msgspec.structs.replace(header(), machine={"cpu": "another"})
    log(two, worker(), session(0), session(1), first=other)
    done = merge([one, two], into)
    assert [what for _, what in done.outcomes] == [What.ADDED, What.RENAMED]
    (note,) = done.notes
    found, problems = runs.read_all(into)
    assert not problems
    assert {run.started.machine["cpu"]: len(run.sessions) for run in found} == {
        "test": 1,
        "another": 2,
    }
    renamed = next(run for run in found if run.name != NAME)
    assert f"stored as {renamed.name}" in note
    # Merged again it is the same one, and it is completed under its new name.
    log(two, worker(), session(0), session(1), END, first=other)
    assert [what for _, what in merge([two], into).outcomes] == [What.JOINED]
    assert len(runs.read_all(into)[0]) == 2
    assert runs.find(into, renamed.name).finished


def test_a_renamed_file_is_known_by_its_first_line(tmp_path):
    one, two, into = tmp_path / "one", tmp_path / "two", tmp_path / "all"
    log(one, worker(), session(0), file="before-upgrade.jsonl")
    log(two, worker(), session(0), session(1))
    whats, (run,) = merged(one, two, into=into)
    assert whats == [What.ADDED, What.COMPLETED]
    assert len(run.sessions) == 2
    # A file of another log that has the name of this one stays as well.
    log(tmp_path / "three", worker(), first=named("bbbbbb"))
    log(into, worker(), first=named("cccccc"), file=f"{named('bbbbbb').name}.jsonl")
    assert merged(tmp_path / "three", into=into)[0] == [What.ADDED]
    assert len(runs.read_all(into)[0]) == 3


def test_what_is_no_log_is_named_and_costs_only_itself(tmp_path):
    one, into = tmp_path / "one", tmp_path / "all"
    good = log(one, worker(), session(0))
    good.with_name("notes.txt").write_text("mine")
    good.with_name("broken.jsonl").write_text("{")
    good.with_name("cut.jsonl.xz").write_bytes(lzma.compress(good.read_bytes())[:40])
    os.mkfifo(good.with_name("pipe.jsonl"))
    done = merge([one], into)
    assert [what for _, what in done.outcomes] == [What.ADDED]
    assert len(done.left_out) == 4
    assert all(line.endswith("left out") for line in done.left_out)
    assert list(files(into)) == [f"runs/{NAME}.jsonl"]


def test_a_log_that_is_being_written_is_left_as_it_is(tmp_path):
    one, into = tmp_path / "one", tmp_path / "all"
    log(one, worker(), session(0), session(1))
    path = log(into, worker(), session(0))
    held, _ = lines.LineLog.opened(path, new=False)
    with held:
        done = merge([one], into)
    assert "is being written by another process" in done.left_out[0]
    assert len(runs.read(path).sessions) == 1
    assert [what for _, what in merge([one], into).outcomes] == [What.COMPLETED]


def test_the_other_files_of_a_results_folder(tmp_path):
    one, two, into = tmp_path / "one", tmp_path / "two", tmp_path / "all"
    for folder, said in ((one, "1"), (two, "2")):
        log(folder, worker(), first=named(f"{said}aaaaa"))
        for name in ("own/model.py", "asv/machine/v2-env.json", "report/index.html", "runs/.x"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(said)
        dates = {"2.16.0.dev1": f"2026-11-0{said}", f"2.16.0.dev{said}0": "2026-11-03"}
        (folder / "releases.json").write_text(json.dumps(dates))
    (two / "own" / "link.py").symlink_to("/etc/hostname")
    done = merge([one, two], into)
    there = files(into)
    assert there["own/model.py"] == there["asv/machine/v2-env.json"] == b"1"
    assert [there[name] for name in there if name.startswith("own/model-")] == [b"2"]
    assert not any(name.startswith(("report", "runs/.")) for name in there)
    assert json.loads(there["releases.json"]) == {
        "2.16.0.dev1": "2026-11-01",
        "2.16.0.dev10": "2026-11-03",
        "2.16.0.dev20": "2026-11-03",
    }
    assert len(done.notes) == 3
    assert len(done.left_out) == 1
    assert "is a link" in done.left_out[0]
    assert not any("link" in name for name in there)
    before = files(into)
    merge([one, two], into)
    assert files(into) == before


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    one, into = tmp_path / "one", tmp_path / "all"
    log(one, worker(), session(0), session(1))
    path = log(into, worker(), session(0))
    log(one, worker(), first=named("ffffff"))
    before = files(into)

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("copyfileobj", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(shutil if name == "copyfileobj" else os, name, full)
            done = gradbench("merge", one, "--into", into)
        assert done.returncode == 2
        assert "No space left on device" in done.stderr
        assert "the same command goes on from there" in done.stderr
        assert files(into) == before
    assert gradbench("merge", one, "--into", into).returncode == 0
    assert len(runs.read(path).sessions) == 2


def test_an_interrupt_leaves_nothing_half_written(tmp_path, monkeypatch):
    one, into = tmp_path / "one", tmp_path / "all"
    log(one, worker(), session(0))

    def stopped(source, target, *given):
        target.write(source.read(100))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", stopped)
        with pytest.raises(KeyboardInterrupt):
            merge([one], into)
    assert not files(into)
    assert merged(one, into=into)[0] == [What.ADDED]


@pytest.mark.parametrize("what", ["missing", "empty", "a file", "its runs", "itself"])
def test_a_folder_that_cannot_be_merged_ends_it_before_anything_is_written(tmp_path, what):
    one, into = tmp_path / "one", tmp_path / "all"
    log(one, worker(), session(0))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    folder, said = {
        "missing": (tmp_path / "nothing", "is not a folder"),
        "empty": (tmp_path / "empty", "is not a results folder: it has none of runs"),
        "a file": (tmp_path / "file", "is a file"),
        "its runs": (one / "runs", f"did you mean {one}?"),
        "itself": (one, "is the folder to merge into"),
    }[what]
    done = gradbench("merge", one, folder, "--into", one if what == "itself" else into)
    assert done.returncode == 2
    assert said in done.stderr
    assert not into.exists()


def test_two_merges_at_once(tmp_path):
    one, into = tmp_path / "one", tmp_path / "all"
    log(one, worker(), session(0))
    into.mkdir()
    with merging._held(into), pytest.raises(StoreError, match="another process merges into"):
        merge([one], into)


def test_the_command_says_what_became_of_each(tmp_path):
    one, into = tmp_path / "one", tmp_path / "all"
    log(one, worker(), session(0))
    written(one, session(0), first=named("dddddd"))
    done = gradbench("merge", one, "--into", into)
    assert done.stdout == f"{into}: 2 runs added\n"
    done = gradbench("merge", one, GRADBENCH_RESULTS=into)
    assert done.stdout == f"{into}: 2 runs there already\n"
    (one / "runs" / "broken.jsonl").write_text("{")
    done = gradbench("merge", one, "--into", into)
    assert done.returncode == 1
    assert "broken.jsonl" in done.stderr


# ── any copies of one log ─────────────────────────────────────────────────────────────────────

COUNTER = itertools.count()


@given(
    common=st.integers(0, 3),
    own=st.lists(st.lists(st.integers(0, 5), unique=True), min_size=1, max_size=3),
    torn=st.booleans(),
    data=st.data(),
)
def test_any_copies_of_a_log_give_every_record_once(tmp_path, common, own, torn, data):
    """Copies that share a beginning and were gone on with apart, in any order: each measurement is
    there once, with the process that made it."""
    place = tmp_path / str(next(COUNTER))
    shared = [worker(), *(session(n, process=1, load=float(n)) for n in range(common))]
    expected = {float(n) for n in range(common)}
    for copy, sessions in enumerate(own):
        process = worker(2, node=f"copy {copy}")
        records = []
        for n in sessions:
            load = 100.0 * (copy + 1) + n
            records.append(session(common + n, process=2, load=load))
            expected.add(load)
        path = log(place / str(copy), *shared, *([process] if records else []), *records)
        if torn:
            with path.open("ab") as file:
                file.write(b'{"kind":"session"')
    order = data.draw(st.permutations(range(len(own))))
    folders = [place / str(copy) for copy in order]
    _, (run,) = merged(*folders, into=place / "all")
    assert sorted(s.load for s in run.sessions) == sorted(expected)
    assert len(run.done()) == len(run.sessions)
    for s in run.sessions:
        copy = int(s.load) // 100 - 1
        node = run.environment(s.process).get("node")
        assert node == (None if copy < 0 else f"copy {copy}")
    before = files(place / "all")
    merge(folders[::-1], place / "all")
    assert files(place / "all") == before
