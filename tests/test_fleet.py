"""Runs on a fleet: what comes home is stored once, whatever becomes of nodes and scheduler."""

import random
import socket
from collections import Counter

import pytest
from fake_fleet import ENTRIES, ENVIRONMENT, FUNCTIONS, MACHINE, Fake, Fleet, Node, measured
from in_process import gradbench

from gradbench.analysis.frames import load
from gradbench.core.cases import Entry
from gradbench.fleet import machines, measuring, node, shares
from gradbench.fleet.engine import FleetError
from gradbench.fleet.jobs import LIMITS, Answer, Look, Seen, Share, decode, encode
from gradbench.runner.settings import Settings
from gradbench.statistics import Stopping
from gradbench.store import lines, runs

QUICK = Settings(sessions=1, warm=0.001, stopping=Stopping(4, 4, budget=0.1))
PLANNED = {(entry.comparison, session) for entry in ENTRIES for session in range(3)}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """Small jobs, and nodes that are busy are asked again at once."""
    monkeypatch.setattr(shares, "SHARE", 0.1)
    monkeypatch.setattr(machines, "AGAIN", 0.0)


def measure(fleet):
    with fleet:
        measuring.measure(fleet.shares, fleet.nodes, note=fleet.notes.append)
    return [runs.read(own.opened.stored.path) for own in fleet.shares]


def test_sessions_spread_over_like_nodes(tmp_path):
    engine = Fake(a=Node(), b=Node(), c=Node())
    (stored,) = measure(Fleet(engine, tmp_path))
    assert stored.done() == PLANNED
    assert stored.finished
    assert not stored.problems
    assert stored.started.machine == MACHINE
    assert len({worker.process for worker in stored.workers}) == len(stored.workers)
    by = Counter(stored.environment(session.process)["node"] for session in stored.sessions)
    assert by.keys() == {"a", "b", "c"}


def test_unlike_machines_have_runs_of_their_own(tmp_path):
    engine = Fake(
        a=Node(),
        b=Node({"cpu": "Xeon"}),
        c=Node(environment={"cpu_capability": "AVX512"}),
        d=Node(),
    )
    fleet = Fleet(engine, tmp_path)
    stored = measure(fleet)
    assert len(stored) == 3
    nodes = []
    for own in stored:
        assert own.done() == PLANNED
        nodes.append({worker.environment["node"] for worker in own.workers})
    assert sorted(map(sorted, nodes)) == [["a", "d"], ["b"], ["c"]]
    labels = [own.name for own in fleet.shares]
    assert len(set(labels)) == 3
    assert any("AVX512" in label for label in labels)


def test_later_sessions_wait_for_the_first_and_know_what_it_found(tmp_path):
    (entrant,) = (e for e in measured(ENTRIES[0].comparison, 0, 1, "crashed").entrants if e.reason)
    worker = Node(status="crashed")
    (stored,) = measure(Fleet(Fake(a=worker), tmp_path))
    assert stored.finished
    seen = set()
    for share in (s for s in worker.shares if s.session >= 0):
        for entry in share.entries:
            name = str(entry.comparison)
            assert (share.session == 0) == (name not in seen)
            assert share.settled[name] == ([entrant] if share.session else [])
            seen.add(name)


def test_the_limits_come_last(tmp_path):
    worker = Node()
    measure(Fleet(Fake(a=worker), tmp_path))
    assert [share.session for share in worker.shares].index(LIMITS) == len(worker.shares) - 1


@pytest.mark.parametrize("seed", range(5))
def test_any_kills_of_nodes_lose_nothing(tmp_path, seed):
    """Nodes are killed and started at random: each session is measured, and stands once."""
    chance = random.Random(seed)
    count = iter(range(1000))

    def before(engine):
        if chance.random() < 0.4 and engine.here:
            engine.kill(chance.choice([node.name for node in engine.here.values()]))
        if chance.random() < 0.4 or not engine.here:
            engine.add(f"later{next(count)}", Node())

    (stored,) = measure(Fleet(Fake(before, a=Node(), b=Node()), tmp_path))
    assert stored.finished
    assert stored.done() == PLANNED
    assert len(stored.sessions) == len(PLANNED)
    assert not stored.problems


@pytest.mark.parametrize("after", range(1, 8))
def test_a_lost_scheduler_leaves_what_came_home(tmp_path, after):
    def before(engine):
        engine.dead = engine.done >= after

    fleet = Fleet(Fake(before, a=Node(), b=Node()), tmp_path)
    with pytest.raises(FleetError, match="no longer answers; everything that came home is kept"):
        measure(fleet)
    stored = runs.read(fleet.shares[0].opened.stored.path)
    assert len(stored.sessions) == after
    assert not stored.finished
    other = Node()
    (stored,) = measure(Fleet(Fake(c=other), tmp_path, old=stored))
    assert stored.finished
    assert stored.done() == PLANNED
    assert len(stored.sessions) == len(PLANNED)
    assert sum(len(share.entries) for share in other.shares if share.session >= 0) == (
        len(PLANNED) - after
    )
    assert not stored.problems


def test_an_interrupt_ends_the_log_and_gives_up_the_jobs(tmp_path):
    def before(engine):
        if engine.done == 4:
            raise KeyboardInterrupt

    engine = Fake(before, a=Node(), b=Node())
    fleet = Fleet(engine, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        measure(fleet)
    stored = runs.read(fleet.shares[0].opened.stored.path)
    assert len(stored.sessions) == 4
    assert [end.finished for end in stored.ends] == [False]
    assert not engine.jobs


def test_a_busy_node_refuses_and_the_others_measure(tmp_path, monkeypatch):
    monkeypatch.setattr(machines, "AGAIN", 1e9)
    busy = Node()

    def before(engine):
        busy.busy = engine.done > 1

    fleet = Fleet(Fake(before, a=Node(), b=busy), tmp_path)
    (stored,) = measure(fleet)
    assert stored.finished
    assert stored.done() == PLANNED
    assert fleet.notes == ["b does not measure: it is busy"]


def test_a_node_that_is_quiet_again_measures_again(tmp_path):
    busy = Node()
    busy.busy = True

    def before(engine):
        busy.busy = False

    (stored,) = measure(Fleet(Fake(before, a=Node(), b=busy), tmp_path))
    assert {worker.environment["node"] for worker in stored.workers} == {"a", "b"}


def test_a_job_that_its_nodes_cannot_do_is_left_and_the_run_resumed(tmp_path):
    """As where a case takes down each machine that measures it: it is not tried for ever."""

    def killed(share, answer):
        bad = share.session == 1 and share.entries[0] == ENTRIES[1]
        return (None, "4 nodes died while they measured it") if bad else answer

    fleet = Fleet(Fake(a=Node(change=killed)), tmp_path)
    (stored,) = measure(fleet)
    assert not stored.finished
    assert stored.done() == PLANNED - {(ENTRIES[1].comparison, 1)}
    assert "4 nodes died" in measuring.lacks_something(fleet.shares)[0]
    (stored,) = measure(Fleet(Fake(b=Node()), tmp_path, old=stored))
    assert stored.finished
    assert stored.done() == PLANNED


def foreign(share, answer):
    """A session that nobody asked for."""
    made = decode(answer, Answer)
    other = measured(ENTRIES[0].comparison, 77, 1)
    return encode(Answer([*made.lines, lines.encoded(other).decode()]))


def edited(share, answer):
    return answer.replace("1002", "1003")


BAD = {
    "no JSON": lambda share, answer: "{",
    "another kind": lambda share, answer: '{"lines": 3}',
    "a log line that is none": lambda share, answer: encode(Answer(["{}"])),
    "of another session": foreign,
    "with a wrong checksum": edited,
    "a first line": lambda share, answer: encode(
        Answer([lines.encoded(runs.Resumed("now")).decode()])
    ),
    "of no process": lambda share, answer: encode(
        Answer([lines.encoded(measured(ENTRIES[0].comparison, share.session, 9)).decode()])
    ),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_what_a_node_must_not_send_is_not_stored(tmp_path, change):
    def bad(share, answer):
        return change(share, answer) if share.session == 2 else answer

    fleet = Fleet(Fake(a=Node(change=bad)), tmp_path)
    (stored,) = measure(fleet)
    assert not stored.finished
    assert not stored.problems
    assert {number for _, number in stored.done()} <= {0, 1, 2}
    assert {(name, n) for name, n in stored.done() if n < 2} == {k for k in PLANNED if k[1] < 2}
    assert any("malformed" in note for note in fleet.notes)


def test_an_answer_that_comes_twice_counts_once(tmp_path):
    def doubled(share, answer):
        made = decode(answer, Answer)
        return encode(Answer(made.lines + made.lines[1:]))

    (stored,) = measure(Fleet(Fake(a=Node(change=doubled)), tmp_path))
    assert len(stored.sessions) == len(PLANNED)
    assert not stored.problems


def test_no_node_measures(tmp_path):
    with pytest.raises(FleetError, match="start some with: dask worker"):
        Fleet(Fake(), tmp_path)
    with pytest.raises(FleetError, match="no node can measure: a: it lacks"):
        Fleet(Fake(a=Node(refused="it lacks /x.py")), tmp_path)
    with pytest.raises(FleetError, match="malformed"):
        Fleet(Fake(a=Node({"usable_cores": -1})), tmp_path)


def test_a_node_that_does_not_answer_costs_only_itself(tmp_path):
    class Hung(Node):
        pass

    engine = Fake(a=Node(), b=Hung())
    answers = engine.answers

    def without_hung(seconds):
        asked = {h: job for h, job in engine.jobs.items() if job[2] == {"tcp://b"}}
        for handle in asked:
            del engine.jobs[handle]
        found = answers(seconds)
        engine.jobs |= asked
        return found

    engine.answers = without_hung
    fleet = Fleet(engine, tmp_path, seconds=0.2)
    assert fleet.notes == ["b does not answer; it may join later"]
    (stored,) = measure(fleet)
    assert stored.done() == PLANNED


def test_all_nodes_of_a_kind_gone_for_good(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "WAIT", 0.0)

    def before(engine):
        if engine.done == 2 and "tcp://a" in engine.here:
            engine.kill("a")

    fleet = Fleet(Fake(before, a=Node(), b=Node({"cpu": "Xeon"})), tmp_path)
    by_cpu = {own.started.machine["cpu"]: own for own in measure(fleet)}
    assert by_cpu["Xeon"].finished
    assert by_cpu["Xeon"].done() == PLANNED
    assert not by_cpu["EPYC"].finished


def test_jobs_are_of_a_size(monkeypatch):
    monkeypatch.setattr(shares, "SHARE", 30.0)
    entries = [Entry(ENTRIES[0].comparison, ("a", "b"))] * 100
    split = shares.chunks(entries, 0.4, 1)
    assert [entry for chunk in split for entry in chunk] == entries
    assert all(0.02 < len(chunk) * 0.46 <= shares.SHARE or len(chunk) == 1 for chunk in split)
    assert len(shares.chunks(entries[:10], 1e-6, 4)) == 4
    assert len(shares.chunks(entries[:3], 1e-6, 8)) == 3
    assert [len(chunk) for chunk in shares.chunks(entries[:3], 1e6, 1)] == [1, 1, 1]
    assert shares.chunks([], 1.0, 3) == []


# ── a node ────────────────────────────────────────────────────────────────────────────────────


def asked(what, job):
    kind = {"look": Seen, "share": Answer}[what]
    return decode(node.execute(what, encode(job), "here"), kind)


def test_a_node_of_another_version_refuses():
    assert "the driver has 9.9" in asked("look", Look("9.9", {}, [], 1 << 30, False)).refused


def test_a_node_without_the_users_file_refuses(tmp_path):
    from gradbench import __version__

    file = tmp_path / "mine.py"
    looked = Look(__version__, {str(file): "0" * 64}, [str(file)], 1 << 30, False)
    assert asked("look", looked).refused == f"it lacks {file}"
    file.write_text("pass")
    assert asked("look", looked).refused == f"its {file} is not the driver's"


def test_a_node_measures_as_one_machine_does(monkeypatch):
    """What it sends can be stored, and says which node measured it."""
    monkeypatch.setattr(node, "listen", lambda seconds: pytest.fail("asked to be quiet"))
    entries = [Entry(ENTRIES[0].comparison, ("forward", "backward", "grad"))]
    job = Share(
        *(0, entries, QUICK, {}, {}, [], [], {"vjp": "backward"}, {}, {}, [], False),
    )
    answer = asked("share", job)
    assert not answer.refused
    header = runs.RunStarted(*(runs.SCHEMA, "run", "2026-01-01T00:00:00Z", {}, MACHINE, entries))
    worker, session = (runs.KIND.decode(line.strip().encode(), header) for line in answer.lines)
    assert worker.environment["node"] == "here"
    assert session.baseline == "backward"
    assert all(entrant.status == "ok" and entrant.samples for entrant in session.entrants)


def test_a_node_whose_build_has_changed_refuses():
    entries = [Entry(ENTRIES[0].comparison, ("backward",))]
    job = Share(*(0, entries, QUICK, ENVIRONMENT, {}, [], [], {}, {}, {}, [], False))
    answer = asked("share", job)
    assert "was begun with" in answer.refused
    assert not any(line.startswith('{"kind":"session"') for line in answer.lines)


def test_a_busy_node_says_so(monkeypatch):
    from gradbench import __version__

    class Heard:
        away = 0.8

    monkeypatch.setattr(node, "listen", lambda seconds: Heard)
    monkeypatch.setattr(node, "BEGINNING", 0.0)
    monkeypatch.setattr(node, "PATIENCE", 0.0)
    seen = asked("look", Look(__version__, {}, [], 1 << 30, True))
    assert seen.busy
    assert "80%" in seen.refused
    job = Share(*(0, ENTRIES, QUICK, ENVIRONMENT, {}, [], [], {}, {}, {}, [], True))
    answer = asked("share", job)
    assert answer.busy
    assert answer.node == "here"


def test_what_goes_wrong_on_a_node_is_in_its_answer():
    answer = decode(node.execute("share", "{", "here"), Answer)
    assert answer.refused.startswith("ValueError")


# ── the command ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def fleet(monkeypatch):
    """The engine that the command finds at any address."""
    engine = Fake(a=Node(), b=Node())
    monkeypatch.setattr("gradbench.cli.on_fleet.Dask", lambda address: engine)
    return engine


def test_the_command_measures_stores_and_shows(tmp_path, fleet):
    done = gradbench("run", "--on", "tcp://x", "--sessions", 3, "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "EPYC, 8 cores, 64 GiB" in done.stdout
    (path,) = runs.paths(tmp_path)
    stored = runs.read(path)
    assert stored.done() == PLANNED
    nodes = [stored.environment(session.process)["node"] for session in stored.sessions]
    assert [*load(tmp_path).drop_duplicates(["function", "session"])["node"]] == nodes
    by = ", ".join(f"{node} {number}" for node, number in Counter(nodes).most_common())
    assert f"Sessions by node: {by}" in gradbench("show", "--results", tmp_path).stdout


def test_the_command_says_what_it_would_measure(tmp_path, fleet):
    done = gradbench("run", "--on", "tcp://x", "--dry-run", "--results", tmp_path)
    assert "6 cases in 3 comparisons on 2 nodes of EPYC" in done.stdout
    assert not runs.paths(tmp_path)


@pytest.mark.parametrize("after", [0, 3])
def test_the_command_resumes_on_like_nodes_only(tmp_path, fleet, after):
    """Also before the first session."""
    fleet.before = lambda engine: setattr(engine, "dead", engine.done >= after)
    words = ("run", "--on", "tcp://x", "--results", tmp_path)
    done = gradbench(*words, "--sessions", 3)
    assert done.returncode == 2
    assert "everything that came home is kept" in done.stderr
    (path,) = runs.paths(tmp_path)
    done = gradbench("run", "--resume", "latest", "--results", tmp_path)
    assert done.returncode == 2
    assert "--on ADDRESS" in done.stderr
    fleet.dead, fleet.before = False, lambda engine: None
    for other in list(fleet.here.values()):
        fleet.kill(other.name)
        fleet.add(other.name, Node({"cpu": "Xeon"}))
    done = gradbench(*words, "--resume", "latest")
    assert done.returncode == 2
    assert "no node is of the kind" in done.stderr
    fleet.add("c", Node())
    done = gradbench(*words, "--resume", "latest")
    assert done.returncode == 0, done.stderr
    assert runs.read(path).done() == PLANNED


def test_functions_of_the_fixture_exist():
    assert {entry.comparison.function for entry in ENTRIES} == set(FUNCTIONS)


def test_without_the_extra_the_command_says_what_to_type(tmp_path, monkeypatch):
    from gradbench.core import extras

    monkeypatch.setattr(extras, "installed", lambda module: module != "distributed")
    done = gradbench("run", "--on", "tcp://127.0.0.1:1", "--results", tmp_path)
    assert done.returncode == 2
    assert "pip install 'torch-gradbench[fleet]'" in done.stderr
    assert "\n" not in done.stderr.strip()


def test_an_address_that_answers_nothing(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("gradbench.fleet.engine.CONNECTING", 0.5)
    done = gradbench("run", "--on", "tcp://127.0.0.1:1", "--results", tmp_path)
    assert done.returncode == 2
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in done.stderr
    assert "\n" not in done.stderr.strip()


@pytest.mark.parametrize(
    "address", ["foo", "http://127.0.0.1:8787", "tcp://", "tcp://:8786", "tcp://x:port", "x:65536"]
)
def test_what_is_no_address_is_refused_at_once(tmp_path, monkeypatch, address):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(distributed, "Client", lambda *words, **more: pytest.fail("it was tried"))
    done = gradbench("run", "--on", address, "--results", tmp_path)
    assert done.returncode == 2
    assert f"{address} is no address of a Dask scheduler" in done.stderr
    assert "\n" not in done.stderr.strip()


def test_what_accepts_a_connection_and_says_nothing_is_no_scheduler(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("gradbench.fleet.engine.CONNECTING", 0.5)
    monkeypatch.setattr("gradbench.fleet.engine.ANSWERING", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        done = gradbench("run", "--on", address, "--results", tmp_path)
    assert done.returncode == 2
    assert f"no Dask scheduler answers at {address}" in done.stderr
    assert "\n" not in done.stderr.strip()


FILES = dict.fromkeys(
    [f"distributed.comm.tls.{name}" for name in ("ca-file", "client.cert", "client.key")],
    "/nowhere.pem",
)


@pytest.mark.parametrize(
    ("address", "settings", "said"),
    [
        ("tls://127.0.0.1:1", {}, "names no certificates"),
        ("tcp://127.0.0.1:1", {"distributed.comm.require-encryption": True}, "is not encrypted"),
        ("tls://127.0.0.1:1", FILES, "cannot be read"),
    ],
)
def test_encryption_without_certificates_is_refused_at_once(
    tmp_path, monkeypatch, address, settings, said
):
    distributed = pytest.importorskip("distributed")
    import dask.config

    monkeypatch.setattr(distributed, "Client", lambda *words, **more: pytest.fail("it was tried"))
    with dask.config.set(settings):
        done = gradbench("run", "--on", address, "--results", tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "\n" not in done.stderr.strip()


@pytest.mark.parametrize("words", [("run",), ("releases", "track", "2.13.0")])
def test_nodes_may_be_busy_only_where_there_are_nodes(tmp_path, words):
    done = gradbench(*words, "--even-if-busy", "--results", tmp_path)
    assert done.returncode == 2
    assert "add --on ADDRESS" in done.stderr
