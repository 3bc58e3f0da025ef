"""Tracks on a fleet: their builds take turns on each node, and machines are never mixed."""

import sys
from collections import Counter

import pytest
from fake_fleet import ENTRIES, ENVIRONMENT, MACHINE, Fake, Node
from in_process import gradbench
from test_fleet import QUICK, asked

from gradbench import __version__
from gradbench.core.cases import Entry
from gradbench.fleet import machines, node, shares
from gradbench.fleet.jobs import READINGS, Answer, Built, Look, Seen, TrackShare, decode, encode
from gradbench.releases.environments import Failure
from gradbench.releases.wanted import Installing
from gradbench.store import runs, tracks
from gradbench.store.lines import encoded

RELEASES = ("2.12.0", "2.13.0")
PLANNED = {(0, session, entry.comparison) for entry in ENTRIES for session in range(2)}


class Builds(Node):
    """A node that has builds, and pretends to measure them."""

    def __call__(self, what, job):
        if what == "look":
            return encode(self.look(decode(job, Look)))
        share = decode(job, TrackShare)
        self.shares.append(share)
        return self.change(share, encode(Answer(self.track_lines(share), node=self.name)))

    def look(self, asked):
        seen = super().look(asked)
        if seen.refused:
            return seen
        builds = {
            name: Built({**self.environment, "torch": f"{what}+cpu"})
            for name, what in asked.builds.items()
        }
        return Seen(
            seen.machine, builds[asked.baseline].identity, seen.offers, seen.modes, builds=builds
        )

    def track_lines(self, share):
        if share.session == READINGS:
            return []
        parts = []
        for entry in share.entries:
            cases = [
                tracks.CaseMeasured(
                    mode,
                    [
                        tracks.Side(build, runs.Entrant(mode, "ok", number=1, samples=[[n], [n]]))
                        for n, build in enumerate(share.members, 1000)
                    ],
                    "rounds",
                )
                for mode in entry.modes
            ]
            parts.append(
                tracks.PartMeasured(
                    *(entry.comparison, share.session, share.group, cases, 0.1, 0.2, 0.0),
                    node=self.name,
                )
            )
        return [encoded(part).decode() for part in parts]


@pytest.fixture
def fleet(monkeypatch, tmp_path):
    engine = Fake(a=Builds(), b=Builds(), c=Builds({"cpu": "Xeon"}))
    monkeypatch.setattr("gradbench.cli.on_fleet.Dask", lambda address: engine)
    monkeypatch.setattr(shares, "SHARE", 0.01)
    monkeypatch.setattr(machines, "AGAIN", 0.0)
    monkeypatch.setenv("GRADBENCH_RELEASES", str(tmp_path / "releases"))
    monkeypatch.setattr("gradbench.core.extras.installed", lambda module: False)
    return engine


def track(place, *words):
    return gradbench(
        *("releases", "track", *words, "--on", "tcp://x", "--results", place / "results")
    )


def test_each_kind_of_machine_has_a_track_of_its_own(tmp_path, fleet):
    done = track(tmp_path, *RELEASES, "--sessions", 2)
    assert done.returncode == 0, done.stderr
    found, problems = tracks.read_all(tmp_path / "results")
    assert not problems
    assert sorted(made.started.machine["cpu"] for made in found) == ["EPYC", "Xeon"]
    for made in found:
        assert made.done() == PLANNED
        assert made.finished
        assert made.environments.keys() == set(RELEASES)
        assert made.started.groups == [["2.13.0", "2.12.0"]]
    assert "EPYC, 8 cores" in done.stdout
    nodes = {name: list(fleet.here[f"tcp://{name}"].shares) for name in "abc"}
    assert all(nodes.values())
    for share in [share for own in nodes.values() for share in own]:
        assert share.members == ["2.13.0", "2.12.0"]


def test_kinds_that_differ_in_a_build_only_are_named_by_it():
    def kind(numpy):
        builds = {"2.10.0": {**ENVIRONMENT, "numpy": numpy}, "2.13.0": ENVIRONMENT}
        seen = Seen(MACHINE, ENVIRONMENT, builds={n: Built(own) for n, own in builds.items()})
        return machines.seen_kind(seen), seen

    named = machines.names(dict([kind("1.26.4"), kind("2.1.0")]))
    assert [*named.values()] == [
        "EPYC, 8 cores, 64 GiB, numpy 1.26.4 in 2.10.0",
        "EPYC, 8 cores, 64 GiB, numpy 2.1.0 in 2.10.0",
    ]


@pytest.mark.parametrize("function", ["*", "exp"])
def test_it_shows_which_node_measured_how_many_sessions(tmp_path, fleet, function):
    fleet.kill("c")
    track(tmp_path, *RELEASES, "--sessions", 5)
    (path,) = tracks.paths(tmp_path / "results")
    made = tracks.read(path)
    parts = [p for p in made.parts if function in ("*", p.comparison.function)]
    by = Counter(part.node for part in parts)
    assert by.keys() <= {"a", "b"}
    words = ("-f", function, "--track", made.name, "--results", tmp_path / "results")
    shown = gradbench("releases", "show", *words).stdout
    said = ", ".join(f"{node} {number}" for node, number in by.most_common())
    assert f"sessions by node: {said}" in " ".join(shown.split())


def test_a_lost_scheduler_and_the_rest_of_the_track(tmp_path, fleet):
    fleet.kill("c")
    fleet.before = lambda engine: setattr(engine, "dead", engine.done >= 2)
    done = track(tmp_path, *RELEASES, "--sessions", 2)
    assert done.returncode == 2
    assert "everything that came home is kept" in done.stderr
    (path,) = tracks.paths(tmp_path / "results")
    assert len(tracks.read(path).parts) == 2
    done = gradbench("releases", "track", "--resume", "latest", "--results", tmp_path / "results")
    assert done.returncode == 2
    assert "--on ADDRESS" in done.stderr
    fleet.dead, fleet.before = False, lambda engine: None
    done = track(tmp_path, "--resume", "latest")
    assert done.returncode == 0, done.stderr
    made = tracks.read(path)
    assert made.done() == PLANNED
    assert made.finished
    assert not made.problems


def test_it_is_resumed_on_like_nodes_only(tmp_path, fleet):
    fleet.kill("c")
    fleet.before = lambda engine: setattr(engine, "dead", engine.done >= 2)
    track(tmp_path, *RELEASES, "--sessions", 2)
    fleet.dead, fleet.before = False, lambda engine: None
    for name in "ab":
        fleet.kill(name)
    fleet.add("d", Builds(environment={"numpy": "1.0"}))
    done = track(tmp_path, "--resume", "latest")
    assert done.returncode == 2
    assert "no node is of the kind" in done.stderr


def test_what_was_not_asked_for_is_not_stored(tmp_path, fleet):
    def foreign(share, answer):
        made = decode(answer, Answer)
        return encode(Answer([line.replace('"session":1', '"session":7') for line in made.lines]))

    fleet.kill("b")
    fleet.kill("c")
    fleet.here["tcp://a"].change = foreign
    done = track(tmp_path, *RELEASES, "--sessions", 2)
    assert done.returncode == 1
    (path,) = tracks.paths(tmp_path / "results")
    made = tracks.read(path)
    assert made.done() == {key for key in PLANNED if key[1] == 0}
    assert not made.finished


def test_it_says_what_it_would_measure_and_needs_names(tmp_path, fleet):
    done = track(tmp_path, *RELEASES, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "in 2 builds on 2 nodes of EPYC" in done.stdout
    assert not tracks.paths(tmp_path / "results")
    done = track(tmp_path)
    assert done.returncode == 2
    assert "name the releases" in done.stderr


# ── a node ────────────────────────────────────────────────────────────────────────────────────


def looked(**more):
    return Look(__version__, {}, [], 1 << 30, False, {"2.12.0": "2.12.0"}, "2.12.0", **more)


def test_a_node_says_which_builds_it_lacks(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADBENCH_RELEASES", str(tmp_path))
    seen = asked("look", looked())
    assert seen.refused == "it lacks 2.12.0: 'gradbench releases install 2.12.0' makes them"


def test_a_node_makes_the_builds_that_it_lacks(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADBENCH_RELEASES", str(tmp_path))
    asked_for = []

    def install(self, requests, say, progress):
        asked_for.extend(requests)
        with progress("installing") as report:
            report(None)
        return [Failure("2.12.0", "2.12.0", "there is no network", "now")]

    monkeypatch.setattr(Installing, "install", install)
    how = Installing("auto", None, None, None, (), False)
    seen = asked("look", looked(installing=how))
    assert [request.what for request in asked_for] == ["2.12.0"]
    assert seen.refused == "it could not install 2.12.0: there is no network"


def test_a_node_without_a_build_cannot_measure_it(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADBENCH_RELEASES", str(tmp_path))
    job = TrackShare(
        *(0, 0, ["2.12.0"], ENTRIES, QUICK, "", {"2.12.0": ENVIRONMENT}),
        *({}, [], [], [], [], [], False),
    )
    answer = decode(node.execute("track", encode(job), "here"), Answer)
    assert "2.12.0 is not installed" in answer.refused
    assert not answer.lines


def test_a_node_measures_its_builds_in_turns(monkeypatch, tmp_path):
    """Two builds that are this Python: what the node says of them and measures can be stored."""
    monkeypatch.setenv("GRADBENCH_RELEASES", str(tmp_path))
    what = {"one": sys.executable, "two": sys.executable}
    how = Installing("auto", None, None, None, (), False)
    question = Look(__version__, {}, [], 1 << 30, False, what, "one", "", how)
    seen = asked("look", question)
    assert not seen.refused
    assert seen.builds.keys() == what.keys()
    entries = [Entry(ENTRIES[0].comparison, ("backward",))]
    identities = {name: own.identity for name, own in seen.builds.items()}
    job = TrackShare(
        *(0, 0, ["one", "two"], entries, QUICK, "", identities),
        *({}, [], [], [], [], [], False),
    )
    answer = decode(node.execute("track", encode(job), "here"), Answer)
    assert not answer.refused
    started = tracks.TrackStarted(
        *(tracks.SCHEMA, "track", "2026-01-01T00:00:00Z", {}, {}, entries),
        *("one", [["one", "two"]]),
    )
    (part,) = (tracks.KIND.decode(line.strip().encode(), started) for line in answer.lines)
    (case,) = part.cases
    assert part.node == "here"
    assert {side.environment for side in case.sides} == what.keys()
    assert all(side.entrant.status == "ok" and side.entrant.samples for side in case.sides)


@pytest.mark.started
def test_a_node_says_what_its_builds_are_now(monkeypatch, tmp_path):
    """Not what another machine found, that made them on a disk that both share."""
    monkeypatch.setenv("GRADBENCH_RELEASES", str(tmp_path))
    how = Installing("auto", None, None, None, (), False)
    question = Look(__version__, {}, [], 1 << 30, False, {"one": sys.executable}, "one", "", how)
    asked("look", question)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    seen = asked("look", question)
    (built,) = seen.builds.values()
    assert {built.identity["cpu_capability"], seen.environment["cpu_capability"]} <= {
        "DEFAULT",
        "NO AVX",
    }
