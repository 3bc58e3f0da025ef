"""Properties of the readers: any bytes, any JSON of a record's shape, any change of a good file.

`HYPOTHESIS_PROFILE=nightly pytest tests/test_store_properties.py` tries thousands of each.
"""

import contextlib
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_store import EXP, header, part, session, track_header, used

from gradbench.analysis import frames as frame
from gradbench.analysis import tracks as judge
from gradbench.core.cases import Case, Comparison, Place
from gradbench.core.releases import ReleaseError
from gradbench.integrations import asv_files, asv_history, pytest_json
from gradbench.releases import environments as installed
from gradbench.store import lines
from gradbench.store import runs as log
from gradbench.store import studies as studies
from gradbench.store import tracks as tracks
from gradbench.store.logs import Ended
from gradbench.studies import evidence, peers

# Each file has something to say in a warning.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

READERS = (log.read, log.read_header, tracks.read, studies.read)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("any")


# ── any bytes ─────────────────────────────────────────────────────────────────────────────────

GOOD = {
    "run": (header(), session(0), session(1), log.RunEnded("now", True, 1.0, 1.0)),
    "track": (track_header(), used(), part(0), part(1)),
}


def study_of(name, *ways, **values):
    """A study with two trials of each way."""
    settings = {"neighbour": "none", "between": False, "seed": 0, "pairs": 2}
    yield studies.StudyStarted(2, name, f"{name}-1", "now", settings, {}, {}, [])
    for number, way in enumerate(2 * ways):
        yield studies.Trial(
            *(f"k{number}", way, f"{EXP}/manual", number, 0),
            log_ratios=[1000, -2000, 500],
            values=values,
        )
    yield Ended("now", True, 1.0)


ARMS = {
    "shares": [0.05, 0.0, 0.0, 0.02],
    "arms": [
        {"median": m, "mean": m, "min": m, "samples": [m, 1.1 * m, 0.9 * m], "number": 10}
        for m in (1.05, 1.0, 1.01, 1.02)
    ],
    "log_ratios": {"0.05": [50000, 51000], "0": [100, -100], "0.02": [20000, 21000]},
}
STUDIES = {
    "aa": study_of("aa", "process", "session", "between"),
    "power": study_of("power", "process", "truth"),
    "coverage": study_of("coverage", "pool", against="jacrev"),
    "peers": study_of("peers", *peers.METHODS, peers.PYPERF, **ARMS),
}
GOOD |= {name: tuple(records) for name, records in STUDIES.items()}
FILES = {kind: b"".join(map(lines.encoded, records)) for kind, records in GOOD.items()}
FIRST = [lines.encoded(records[0]) for records in GOOD.values()]

any_bytes = st.one_of(
    st.binary(max_size=500),
    # The reader gets beyond the first line.
    st.tuples(st.sampled_from(FIRST), st.binary(max_size=500)).map(b"".join),
    st.text(max_size=200).map(lambda text: text.encode("utf-16", "surrogatepass")),
)


def read_or_refused(reader, path):
    """What a reader makes of a file; None where it refuses it, which it does in one line."""
    try:
        return reader(path)
    except (lines.StoreError, ReleaseError) as error:
        said = str(error)
    assert len(said.splitlines()) == 1
    return None


@given(data=any_bytes)
def test_any_bytes_are_read_or_refused_in_one_line(place, data):
    path = place / "any.jsonl"
    path.write_bytes(data)
    for reader in READERS:
        found = read_or_refused(reader, path)
        assert all(problem.isprintable() for problem in getattr(found, "problems", ()))


@given(data=any_bytes)
def test_any_bytes_are_no_import_no_environment_and_no_builds(place, data):
    path = place / "any.json"
    path.write_bytes(data)
    assert read_or_refused(pytest_json.load, path) is None
    assert not read_or_refused(asv_files.other_builds, path)


# ── any JSON of a record's shape ──────────────────────────────────────────────────────────────

numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(-2, 3),
    st.floats(allow_nan=False, allow_infinity=False),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8))
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def damaged(draw, record):
    """The fields of a good record with one to three of them, at any depth, replaced."""
    fields = msgspec.to_builtins(record, enc_hook=str)
    for _ in range(draw(st.integers(1, 3))):
        spots = list(_spots(fields))
        holder, key = draw(st.sampled_from(spots))
        if draw(st.integers(0, 4)):
            holder[key] = draw(anything)
        else:
            del holder[key]
        if not fields:
            break
    return fields


def _spots(value):
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _spots(value[key])


def any_record(kind):
    return st.sampled_from(GOOD[kind]).flatmap(damaged)


def _file(kind, fields, old):
    """A file of this kind with a line of these fields: of schema 2, or of 1 without checksums."""
    first, *others = GOOD[kind]
    if not old:
        bad = lines.sealed(json.dumps(fields).encode())
        return b"\n".join([*FILES[kind].splitlines(), bad]) + b"\n"
    first = msgspec.structs.replace(first, schema=1)
    made = [msgspec.json.encode(record, enc_hook=str) for record in (first, *others)]
    return b"\n".join([made[0], json.dumps(fields).encode(), *made[1:]]) + b"\n"


@given(fields=any_record("run"), old=st.booleans())
def test_whatever_a_line_of_a_run_says_the_run_can_be_used(place, fields, old):
    """What the reader lets through breaks nothing that reads it."""
    results = place / "run"
    path = log.folder(results) / f"{header().run}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_file("run", fields, old))
    run = log.read(path)
    assert {record.session for record in run.sessions} >= {0, 1}
    for record in run.sessions:
        assert Comparison.parse(record.comparison).place
        for entrant in record.entrants:
            assert all(seconds > 0 for seconds in entrant.visits.wall if seconds == seconds)
    log.read_header(path)
    frame.load(results, [str(path)])
    frame.samples(results, [str(path)])
    frame.verdicts(results, str(path))


@given(fields=any_record("track"), old=st.booleans())
def test_whatever_a_line_of_a_track_says_the_track_can_be_used(place, fields, old):
    path = place / "track.jsonl"
    path.write_bytes(_file("track", fields, old))
    track = tracks.read(path)
    if "another track of releases begins" not in "".join(track.problems):
        assert {record.session for record in track.parts} >= {0, 1}
    history = judge.History.of([track])
    history.changes(history.steps())
    for name in track.environments:
        list(asv_history.rows(track, name))


@pytest.mark.parametrize("kind", STUDIES)
@given(data=st.data(), old=st.booleans())
def test_whatever_a_line_of_a_study_says_the_study_can_be_shown(place, kind, data, old):
    path = place / "study.jsonl"
    path.write_bytes(_file(kind, data.draw(any_record(kind)), old))
    study = studies.read(path)
    if "another study begins" not in "".join(study.problems):
        assert "k0" in [trial.key for trial in study.trials]
    evidence.newest([study])
    evidence.rows_of(study, True)


@given(fields=anything)
def test_whatever_a_record_of_an_environment_says_it_is_one_or_none(place, fields):
    folder = place / "releases" / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / installed.RECORD).write_text(json.dumps(fields))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADBENCH_RELEASES", str(folder.parent))
        assert installed.installed() == []


# ── any change of a good file ─────────────────────────────────────────────────────────────────


@st.composite
def mutation(draw, data):
    """One to three changes of bytes: flipped, removed, put in, doubled, swapped, cut off."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["flip", "set", "remove", "insert", "double", "cut", "lines"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "set" if data:
                data[at] = draw(st.integers(0, 255))
            case "remove":
                del data[at : at + draw(st.integers(1, 30))]
            case "insert":
                data[at:at] = draw(st.binary(max_size=10))
            case "double":
                data[at:at] = data[at : at + draw(st.integers(1, 300))]
            case "cut":
                del data[at:]
            case "lines":
                data = bytearray(b"".join(draw(st.permutations(data.splitlines(keepends=True)))))
    return bytes(data)


def _numbers(found):
    """All that a file says, line by line."""
    if isinstance(found, log.Run):
        return [found.started], found.sessions, found.ends
    if isinstance(found, tracks.Track):
        return [found.started], found.parts, list(found.environments.values())
    return [found.started], found.trials


@pytest.mark.parametrize("kind", FILES)
@given(data=st.data())
def test_a_changed_file_never_says_anything_else_without_a_word(place, kind, data):
    """A mutated file says less and names it, or is refused, or says what it said."""
    reader = {"run": log.read, "track": tracks.read}.get(kind, studies.read)
    path = place / f"{kind}.jsonl"
    path.write_bytes(FILES[kind])
    good = _numbers(reader(path))
    path.write_bytes(data.draw(mutation(FILES[kind])))
    try:
        found = reader(path)
    except lines.StoreError:
        return
    for before, after in zip(good, _numbers(found)):
        assert [record for record in after if record not in before] == []
        assert len(after) <= len(before)


# ── names ─────────────────────────────────────────────────────────────────────────────────────


@given(text=st.text(max_size=60) | st.from_regex(r"[a-z]+(/[a-z0-9:+=,.]*){4,7}", fullmatch=True))
def test_a_name_is_parsed_to_itself_or_refused(text):
    for kind in (Comparison, Case):
        with contextlib.suppress(ValueError):
            assert str(kind.parse(text)) == text
    with contextlib.suppress(ValueError):
        assert Place.parse(str(Place.parse(text))) == Place.parse(text)


@given(name=st.text(max_size=30))
def test_no_name_of_a_run_leads_out_of_its_folder(place, name):
    results = place / "empty"
    (results / "runs").mkdir(parents=True, exist_ok=True)
    with pytest.raises(lines.StoreError):
        log.find(results, name)
    assert list(Path(results / "runs").iterdir()) == []


@given(value=anything | st.floats() | st.text(alphabet=st.characters()))
def test_whatever_a_process_says_of_itself_is_stored(value):
    record = log.WorkerStarted(1, {"torch": "2", "more": value}, "now")
    line = lines.encoded(record).rstrip(b"\n")
    assert json.loads(line)["environment"]["torch"] == "2"
    assert log.KIND.decode(line, header()).process == 1
