"""What dies, hangs or lies on the other side of the wire, with processes that need no torch."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import warm

from gradbench.analysis.runs import judge_run
from gradbench.core.cases import Comparison, Entry
from gradbench.runner import answers
from gradbench.runner.plan import resume, start
from gradbench.runner.run import measure
from gradbench.runner.settings import Settings
from gradbench.runner.verify import verify
from gradbench.runner.wire import (
    Worker,
    WorkerDied,
    WorkerError,
    WorkerGarbled,
    WorkerOptions,
    WorkerRefused,
    WorkerTimeout,
)
from gradbench.runner.workers import Discovery, discover
from gradbench.statistics import Stopping
from gradbench.store import runs as log
from gradbench.worker.instruments.dispatches import Dispatches

HOME = Path(__file__).parent
MODES = ("forward", "backward", "grad")
ENTRY = Entry(Comparison("vjp", "f", "documents", "float32"), MODES)
SETTINGS = Settings(
    sessions=3,
    warm=0.001,
    timeout=30,
    stopping=Stopping(min_rounds=4, max_rounds=4, every=4, budget=100),
)


class Faked:
    """Workers that come to grief as planned, and runs with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / "results"
        python = warm.python(folder / "python", HOME / "suites" / "fake_worker.py")
        self.options = WorkerOptions(python=str(python), start_timeout=60)
        self.plan({})

    def plan(self, plan: dict[str, list[str]]) -> None:
        state = self.folder / f"state{len(list(self.folder.iterdir()))}"
        state.mkdir()
        environment = {"FAKE": json.dumps(plan), "FAKE_STATE": str(state)}
        self.options = replace(self.options, environment=environment)

    def run(self, settings: Settings = SETTINGS) -> log.Run:
        found = discover(replace(self.options, environment={}))
        opened, run = start(self.results, [ENTRY], settings, found)
        with opened:
            return measure(opened, run, settings, self.options, found)

    def resumed(self) -> log.Run:
        opened, run, settings = resume(log.find(self.results, "latest"))
        with opened:
            return measure(opened, run, settings, self.options, Discovery([], [], {}))

    def statuses(self, run: log.Run) -> list[dict[str, str]]:
        return [
            {e.mode: e.status for e in session.entrants if not e.control}
            for session in run.sessions
        ]


@pytest.fixture
def fake(tmp_path):
    return Faked(tmp_path)


GOOD = dict.fromkeys(MODES, "ok")


@pytest.mark.parametrize(
    "where",
    [
        "start",
        "hello",
        "open",
        "prepare:grad",
        "prepare:backward",
        "estimate",
        "visit",
        "check:grad",
        "close",
        "limits",
    ],
)
def test_a_worker_killed_once_costs_nothing(fake, where):
    fake.plan({where: ["kill"]})
    run = fake.run()
    assert run.finished
    assert fake.statuses(run) == [GOOD] * 3
    assert run.limits


@pytest.mark.parametrize("where", ["open", "prepare:grad", "read:grad", "check:grad"])
def test_a_worker_killed_once_while_it_reads_costs_no_reading(fake, where):
    fake.plan({where: ["kill"]})
    run = fake.run(replace(SETTINGS, sessions=1, instruments=(Dispatches.declared.name,)))
    (reading,) = run.readings
    assert reading.values == {mode: [7.0] for mode in MODES}
    assert not reading.reasons


@pytest.mark.parametrize("where", ["prepare:grad", "visit:grad", "check:grad"])
def test_a_mode_that_dies_twice_is_crashed_and_its_earlier_sessions_stay(fake, where):
    fake.plan({where: ["go on", *["kill"] * 4]})
    run = fake.run()
    assert fake.statuses(run) == [GOOD, GOOD | {"grad": "crashed"}, GOOD | {"grad": "crashed"}]
    row = next(row for row in judge_run(run).rows if row.mode == "grad")
    assert row.status == "ok"
    assert row.sessions == 1
    assert row.note.startswith("crashed in session 2 of 3: ended by SIGKILL")


def test_a_mode_found_wrong_after_a_crash_is_not_judged(fake):
    wrong = '{"ok": true, "status": "wrong", "reason": "off"}'
    fake.plan({"check:grad": ["go on", wrong]})
    row = next(row for row in judge_run(fake.run()).rows if row.mode == "grad")
    assert (row.status, row.verdict) == ("wrong", "")


def test_one_without_an_answer_is_timed_out_at_once(fake):
    fake.plan({"prepare:grad": ["go on", "hang"]})
    run = fake.run(replace(SETTINGS, timeout=5))
    assert fake.statuses(run)[1:] == [GOOD | {"grad": "timed out"}] * 2
    row = next(row for row in judge_run(run).rows if row.mode == "grad")
    assert row.status == "ok"
    assert "timed out in session 2 of 3" in row.note


def test_a_resumed_run_tries_again_what_crashed(fake):
    fake.plan({"prepare:grad": ["kill"] * 2})
    run = fake.run()
    assert fake.statuses(run) == [GOOD | {"grad": "crashed"}] * 3
    fake.plan({})
    run = fake.resumed()
    assert fake.statuses(run)[3:] == [GOOD] * 3
    assert run.sessions[-1].session == 5
    row = next(row for row in judge_run(run).rows if row.mode == "grad")
    assert row.sessions == 3
    with pytest.raises(log.StoreError, match="nothing to resume"):
        fake.resumed()


def test_what_crashes_again_is_tried_once_more_a_stretch(fake):
    fake.plan({"prepare:grad": ["kill"] * 10})
    assert len(fake.run().sessions) == 3
    assert len(fake.resumed().sessions) == 4


def test_verifying_tries_once_more(fake):
    fake.plan({"prepare:grad": ["kill"], "open": ["kill"]})
    result = verify([ENTRY], SETTINGS, fake.options, Discovery([], [], {}))
    assert result.counts() == {"ok": 3}
    fake.plan({"prepare:grad": ["kill"] * 2})
    result = verify([ENTRY], SETTINGS, fake.options, Discovery([], [], {}))
    assert result.counts() == {"crashed": 1, "ok": 2}
    fake.plan({"open": ["kill"] * 20})
    result = verify([ENTRY], SETTINGS, fake.options, Discovery([], [], {}))
    assert result.counts() == {"crashed": 3}


def test_verifying_takes_all_of_the_time_before_a_mode_is_refused(fake):
    late = json.dumps({"ok": True, "status": "refused", "reason": "no time is left"})
    for planned, counts in ([late], {"ok": 3}), ([late] * 2, {"ok": 2, "refused": 1}):
        fake.plan({"prepare:grad": planned})
        result = verify([ENTRY], SETTINGS, fake.options, Discovery([], [], {}))
        assert result.counts() == counts


@pytest.mark.parametrize("op", ["start", "hello", "discover"])
def test_asking_what_there_is_survives_a_kill(fake, op):
    fake.plan({op: ["kill"]})
    assert len(discover(fake.options).offers) == 1
    fake.plan({op: ["kill"] * 4})
    with pytest.raises(WorkerError, match="SIGKILL"):
        discover(fake.options)


def test_where_every_worker_is_killed_the_run_ends_with_how_to_go_on(fake):
    fake.plan({"start": ["go on", *["kill"] * 99]})
    found = discover(replace(fake.options, environment={}))
    opened, run = start(fake.results, [ENTRY], SETTINGS, found)
    with opened, pytest.raises(WorkerError, match=f"gradbench run --resume {run.name}"):
        measure(opened, run, SETTINGS, fake.options, found)
    fake.plan({})
    assert fake.statuses(fake.resumed()) == [GOOD] * 3


@pytest.mark.parametrize("op", ["open", "prepare", "visit", "check", "close", "limits", "read"])
def test_where_every_worker_is_killed_at_one_step_the_run_still_ends(fake, op):
    fake.plan({op: ["kill"] * 999})
    settings = replace(SETTINGS, instruments=("wall_time", Dispatches.declared.name))
    run = fake.run(settings)
    assert run.finished
    wanted = "ok" if op in ("close", "limits", "read") else "crashed"
    assert all(set(found.values()) == {wanted} for found in fake.statuses(run))


PLAN = '"visit": {"number": 1, "blocks": 2, "untimed": 1, "call": 1}'
MALFORMED = {
    "hello": [
        '"protocol": 1, "environment": {}',
        '"protocol": 2, "environment": {}',
        '"protocol": 2, "environment": {"torch": 5}',
    ],
    "discover": ['"offers": [{}], "modes": [], "unavailable": {}, "broken": []'],
    "open": ['"outputs": -1, "coordinates": 3, "result_bytes": 12, "argument_bytes": 12'],
    "prepare": [
        "",
        '"status": "fine"',
        '"status": ["ok"]',
        '"status": "ok", "visit": {}',
        '"status": "ok", ' + PLAN.replace('"number": 1', '"number": 0'),
        '"status": "ok", ' + PLAN.replace('"number": 1', '"number": true'),
        '"status": "ok", "error": "0"',
    ],
    "visit": [
        '"blocks": [[1, -2]], "spent": 3',
        '"blocks": [[1, 0]], "spent": 3',
        '"blocks": [[1, 1.5]], "spent": 3',
        '"blocks": [[5, 5]], "spent": 3',
        '"blocks": [[9223372036854775808, 1]], "spent": 3',
        f'"blocks": [[{"9" * 5000}]], "spent": 3',
        '"blocks": [[NaN, 1]], "spent": 3',
    ],
    "check": ['"status": null', '"status": "crashed"'],
    "read": [
        '"values": {"dispatches": ["1"]}, "reasons": {}',
        '"values": {"dispatches": [1e999]}, "reasons": {}',
        '"values": {"dispatches": [NaN]}, "reasons": {}',
    ],
    "limits": [
        '"bandwidth": 0, "rates": {}, "cache": 1',
        '"bandwidth": 1e9, "rates": {"float32": -1}, "cache": 1',
    ],
}


@pytest.mark.parametrize(("op", "text"), [(op, t) for op, ts in MALFORMED.items() for t in ts])
def test_an_answer_of_another_shape_is_malformed(op, text):
    line = f'{{"id": "token", "ok": true{", " * bool(text)}{text}}}'
    with pytest.raises(answers.Malformed) as caught:
        answers.checked(line.encode(), op, "token")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        '{"ok": true}',
        '{"ok": true, "id": "another"}',
        '{"ok": 1, "id": "token"}',
        '{"ok": false, "id": "token"}',
        '{"ok": false, "id": "token", "reason": 5}',
        '{"ok": false, "id": "token", "reason": "no", "status": "ok"}',
        "[]",
        "",
        "null",
        "[" * 100_000,
        "\x7f",
        "nonsense \x1b[31m",
    ],
)
def test_what_is_no_answer_to_the_request_is_malformed(line):
    with pytest.raises(answers.Malformed) as caught:
        answers.checked(line.encode(), "close", "token")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("op", "text"),
    [
        ("prepare:grad", "{}"),
        ("prepare:grad", '{"ok": true, "status": "ok"}'),
        ("visit:grad", '{"ok": true, "blocks": [], "spent": 1}'),
        ("visit:grad", '{"ok": true, "blocks": [[1, 2, 3]], "spent": 9}'),
        ("check:grad", '{"ok": true, "status": "ok", "id": "another"}'),
    ],
)
def test_a_malformed_answer_is_the_modes_crash(fake, op, text):
    fake.plan({op: [text] * 9})
    run = fake.run(replace(SETTINGS, sessions=1))
    assert fake.statuses(run) == [GOOD | {"grad": "crashed"}]
    (entrant,) = [e for e in run.sessions[0].entrants if e.mode == "grad"]
    assert entrant.reason.startswith("its answer is malformed: ")


def test_an_answer_that_comes_twice_is_the_crash_of_who_gave_it(fake):
    fake.plan({"prepare:grad": ["twice"] * 9})
    assert fake.statuses(fake.run()) == [GOOD | {"grad": "crashed"}] * 3


def test_a_reading_of_another_instrument_is_malformed(fake):
    fake.plan({"read:grad": ['{"ok": true, "values": {"other": [1.0]}, "reasons": {}}'] * 2})
    run = fake.run(replace(SETTINGS, sessions=1, instruments=(Dispatches.declared.name,)))
    (reading,) = run.readings
    assert set(reading.values) == {"forward", "backward"}
    assert reading.reasons["grad"].startswith("crashed: its answer is malformed")


def test_text_on_the_wire_is_made_storable(fake):
    reason = "caf\\udce9 \\u0000 \\u001b[31m\\n" + "x" * 5000
    told = f'{{"ok": true, "status": "failed", "reason": "{reason}"}}'
    fake.plan({"prepare:grad": [told]})
    run = fake.run(replace(SETTINGS, sessions=1))
    stored = log.find(fake.results, "latest")
    (entrant,) = [e for e in stored.sessions[0].entrants if e.mode == "grad"]
    assert entrant.reason.startswith("caf\\udce9 \\x00 \\x1b[31m xxx")
    assert len(entrant.reason) <= 600
    assert run.finished


def test_the_last_words_of_a_process_are_one_clean_line(fake):
    fake.plan({"prepare:grad": ["exit"] * 2})
    run = fake.run(replace(SETTINGS, sessions=1))
    (entrant,) = [e for e in run.sessions[0].entrants if e.mode == "grad"]
    assert entrant.reason == "ended with exit code 3: last words \\x1b[31m"


# ── one process ───────────────────────────────────────────────────────────────────────────────


def speaking(tmp_path, code):
    """Options of a process that runs this code; `wire` and `request` are there."""
    script = tmp_path / "speaking.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(HOME / 'suites')!r})\n"
        "import os, subprocess, time\n"
        "import fake_worker\n"
        "from gradbench.core.process import Wire\n"
        "wire = Wire()\n"
        "requests = wire.requests()\n"
        "next(requests)\n"
        "wire.answer({'ok': True, **fake_worker.HELLO})\n"
        "request = next(requests)\n" + code
    )
    return WorkerOptions(python=str(warm.python(tmp_path / "python", script)), start_timeout=60)


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("gradbench.runner.wire.LONGEST_ANSWER", 1 << 20)
    code = "while True: os.write(wire._out, b'x' * 65536)\n"
    with Worker(speaking(tmp_path, code)) as worker:
        with pytest.raises(WorkerGarbled, match="longer than 1 MiB"):
            worker.request("close", 60)
        assert worker.lost


def test_what_nobody_asked_for_is_no_answer(tmp_path):
    code = "wire.answer({'ok': True})\nos.write(wire._out, b'{\"ok\": true}\\n')\ntime.sleep(60)\n"
    with Worker(speaking(tmp_path, code)) as worker:
        worker.request("close", 60)
        time.sleep(0.2)
        with pytest.raises(WorkerGarbled, match="nothing was asked"):
            worker.request("close", 60)


def test_a_process_that_ends_is_noticed_though_a_child_holds_its_wire(tmp_path):
    code = (
        "subprocess.Popen(['sleep', '1000'], pass_fds=[wire._out], start_new_session=True)\n"
        "os._exit(5)\n"
    )
    with Worker(speaking(tmp_path, code)) as worker:
        began = time.monotonic()
        with pytest.raises(WorkerDied, match="exit code 5"):
            worker.request("close", 60)
        assert time.monotonic() - began < 30


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_no_child_outlives_its_process(tmp_path):
    pids = tmp_path / "pids"
    code = (
        f"pids = open({str(pids)!r}, 'w')\n"
        'pids.write(f\'{subprocess.Popen(["sleep", "1000"]).pid}\\n\')\n'
        "own = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "pids.write(f'{own.pid}\\n')\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.execvp('sleep', ['sleep', '1000'])\n"
        "    os._exit(0)\n"
        "pids.close()\n"
        "wire.answer({'ok': True})\n"
        "time.sleep(60)\n"
    )
    with Worker(speaking(tmp_path, code)) as worker:
        worker.request("close", 60)
        mark = worker._mark.encode()
        started = [int(line) for line in pids.read_text().split()]
        assert all(alive(pid) for pid in started)
    deadline = time.monotonic() + 60
    while any(map(alive, started)) or marked(mark):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def marked(mark):
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes():
                found.append(path)
        except OSError:
            pass
    return found


def test_a_child_that_comes_back_does_not_speak_for_the_process(tmp_path):
    code = (
        "os.fork()\n"
        "wire.answer({'ok': True, 'forked': wire.forked()})\n"
        "for request in requests: wire.answer({'ok': True})\n"
    )
    with Worker(speaking(tmp_path, code)) as worker:
        for _ in range(5):
            worker.request("close", 60)


def test_a_process_that_stops_times_out_and_is_gone(tmp_path):
    code = "import signal\nos.kill(os.getpid(), signal.SIGSTOP)\n"
    with Worker(speaking(tmp_path, code)) as worker:
        with pytest.raises(WorkerTimeout):
            worker.request("close", 1)
        assert worker.lost


def test_closed_descriptors_end_the_process(tmp_path):
    code = "os.closerange(3, 1024)\nwire.answer({'ok': True})\n"
    closed = pytest.raises(WorkerDied, match="the wire to the driver is closed")
    with Worker(speaking(tmp_path, code)) as worker, closed:
        worker.request("close", 60)


def test_an_interrupt_while_a_process_starts_leaves_none(fake):
    fake.plan({"hello": ["hang"]})
    born = []

    def interrupt(pid):
        born.append(pid)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Worker(fake.options, interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ProcessLookupError):
        os.kill(born[0], 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends processes with their parent")
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.3])
def test_a_worker_does_not_outlive_a_driver_that_is_killed_while_it_starts(tmp_path, delay):
    endless = tmp_path / "endless.py"
    endless.write_text("import time\ntime.sleep(1000)\n")
    born = tmp_path / "born"
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from gradbench.runner.wire import Worker, WorkerOptions\n"
        f"born = lambda pid: Path({str(born)!r}).write_text(str(pid))\n"
        f"Worker(WorkerOptions(files=({str(endless)!r},)), born)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 60
        while not (born.exists() and born.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(delay)
    finally:
        driver.kill()
        driver.wait()
    deadline = time.monotonic() + 30
    while alive(int(born.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_every_answer_has_its_shape():
    from gradbench.worker.session import Session

    session = Session(1 << 30)
    assert answers.ANSWERS.keys() <= {n for n in dir(session) if not n.startswith("_")}


def test_a_refusal_is_one(fake):
    fake.plan({"open": ['{"ok": false, "reason": "no", "where": "a\\nb"}']})
    with Worker(fake.options) as worker:
        with pytest.raises(WorkerRefused, match="no") as caught:
            worker.request("open", 30, comparison="c", salt=0, fresh=[])
        assert caught.value.where == "a b"


# ── measured code, with torch ─────────────────────────────────────────────────────────────────

HOSTILE = str(HOME / "suites" / "hostile_wire.py")
EXP = Comparison("vjp", "exp", "documents", "float32")


def asked(mode, *, timeout=60.0):
    """What becomes of a hostile mode in one process: the status, and the reason."""
    from gradbench.core.deadline import Deadline
    from gradbench.runner.arms import Arm, prepare, visit

    with Worker(WorkerOptions(files=(HOSTILE,), start_timeout=300)) as worker:
        worker.request("open", 60, comparison=EXP, salt=0, fresh=[1])
        try:
            prepared = prepare(worker, mode, timeout, handle=0, warm=0.001)
            entrant = prepared.entrant if isinstance(prepared, Arm) else prepared
            if isinstance(prepared, Arm):
                visit([prepared] * 10, timeout, Deadline())
                worker.request("check", timeout, handle=0, fresh=[])
        except WorkerTimeout as error:
            return "timed out", str(error)
        except WorkerDied as error:
            return "crashed", str(error)
        return entrant.status, entrant.reason


@pytest.mark.parametrize(
    ("mode", "status", "reason"),
    [
        # Which of the two is said first is chance: that a child came back, or that there is one.
        ("forks", "failed", "child"),
        ("forks_by_the_c_library", "failed", "child"),
        ("writes_on_all_descriptors", "crashed", "its answer is malformed: n"),
        ("forges_an_answer", "crashed", "its answer is malformed: n"),
        ("writes_an_endless_line", "crashed", "malformed: longer than 16 MiB"),
        ("answers_twice", "crashed", "its answer is malformed: n"),
        ("closes_all_descriptors", "crashed", "exit code 72: the wire to the driver is closed"),
        ("exits", "crashed", "ended with exit code 0"),
        ("exits_when_timed", "crashed", "ended with exit code 0"),
        ("raises_system_exit", "crashed", "ended with exit code 0"),
        ("kills_its_group", "crashed", "ended by SIGTERM"),
        ("raises_what_no_encoding_has", "failed", "cannot read caf\\udce9"),
        ("raises_what_cannot_be_shown", "failed", "_Unspeakable: its message cannot be shown"),
        ("raises_at_length", "failed", "RuntimeError: xxx"),
    ],
)
def test_measured_code_cannot_speak_for_its_process(mode, status, reason):
    found, said = asked(mode)
    assert found == status, said
    assert reason in said
    assert len(said) < 700


def test_a_mode_that_stops_its_process_times_out():
    assert asked("stops_itself", timeout=2)[0] == "timed out"


def test_hostile_modes_cost_only_themselves(tmp_path):
    options = WorkerOptions(files=(HOSTILE,), start_timeout=300)
    found = discover(options)
    hostile = ("forks", "answers_twice", "raises_what_no_encoding_has")
    entry = Entry(EXP, ("forward", *hostile, "backward", "grad"))
    settings = replace(SETTINGS, sessions=1)
    opened, run = start(tmp_path, [entry], settings, found)
    with opened:
        measure(opened, run, settings, options, found)
    stored = log.read(run.path)
    statuses = {e.mode: e.status for e in stored.sessions[0].entrants}
    assert statuses == {
        **dict.fromkeys(("forward", "backward", "grad"), "ok"),
        **{"forks": "failed", "answers_twice": "crashed", "raises_what_no_encoding_has": "failed"},
    }
