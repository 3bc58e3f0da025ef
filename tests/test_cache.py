"""The cache of verdicts: never wrong, never someone else's, never in the way."""

import lzma
import os
import shutil
import time
from pathlib import Path

import msgspec
import pytest

from gradbench.analysis import runs as judge
from gradbench.analysis.runs import judged
from gradbench.analysis.table import Judged
from gradbench.store import cache
from gradbench.store import runs as log
from gradbench.store.fields import parsed

STORED = Path(__file__).parent.parent / "results/runs/20261125-063236-ebd80c.jsonl.xz"
TRUE = judge.judge_run(log.read(STORED))


def unpacked(path: Path) -> Path:
    path.write_bytes(lzma.decompress(STORED.read_bytes()))
    return path


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/gradbench/verdicts"


@pytest.fixture
def run(tmp_path):
    place = tmp_path / "results/runs"
    place.mkdir(parents=True)
    return unpacked(place / STORED.stem)


@pytest.fixture
def times_judged(monkeypatch):
    """How many times a run was judged rather than read from the cache."""
    calls = []

    def counting(*arguments):
        calls.append(arguments)
        return TRUE

    monkeypatch.setattr(judge, "judge_run", counting)
    return calls


def entry(home: Path) -> Path:
    (path,) = home.glob("*.verdicts")
    return path


def forged() -> bytes:
    rows = [msgspec.structs.replace(row, seconds=1e-9) for row in TRUE.rows]
    return msgspec.msgpack.encode(msgspec.structs.replace(TRUE, rows=rows), enc_hook=str)


def test_the_second_look_comes_from_the_cache_and_is_the_same(run, home, times_judged):
    assert judged(run) == judged(run) == TRUE
    assert len(times_judged) == 1
    assert entry(home).stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    # Nothing is written beside the log.
    assert [path.name for path in run.parent.iterdir()] == [run.name]


def test_no_flipped_bit_and_no_cut_is_ever_shown(run, home, times_judged):
    judged(run)
    path, whole = entry(home), entry(home).read_bytes()
    damaged = [
        whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
        for place in range(0, len(whole), 7)
    ]
    damaged += [whole[:size] for size in range(0, len(whole), 97)] + [whole + b"x"]
    for data in damaged:
        path.write_bytes(data)
        assert cache.load(path.stem) is None
    path.write_bytes(damaged[-1])
    assert judged(run) == TRUE
    assert len(times_judged) == 2
    assert path.read_bytes() == whole


def test_an_entry_under_another_name_is_not_believed(run, home, times_judged):
    judged(run)
    judged(run, 0.05)
    one, other = home.glob("*.verdicts")
    shutil.copy(one, other)
    assert cache.load(other.stem) is None
    assert cache.load(one.stem) is not None


def test_a_changed_log_is_judged_again_even_where_its_time_and_size_are_the_same(
    run, home, times_judged
):
    state = run.stat()
    judged(run)
    run.write_bytes(run.read_bytes().replace(b'"load":0', b'"load":9', 1))
    os.utime(run, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert run.stat().st_size == state.st_size
    judged(run)
    assert len(times_judged) == 2


def test_changed_code_and_other_parameters_judge_again(run, home, times_judged, monkeypatch):
    judged(run)
    judged(run, 0.02)
    judged(run, 0.02, 0.9)
    judged(run, 0.02, 0.9, "holm")
    assert len(times_judged) == 4
    monkeypatch.setattr(cache, "_code_digest", lambda: "another")
    judged(run)
    assert len(times_judged) == 5


def test_the_digest_of_the_code_changes_with_any_module(tmp_path, monkeypatch):
    package = Path(shutil.copytree(Path(cache.__file__).parents[1], tmp_path / "gradbench"))
    monkeypatch.setattr(cache.gradbench, "__file__", str(package / "__init__.py"))
    digest = cache._code_digest.__wrapped__
    seen = {digest(), digest()}
    for name in ("statistics/between.py", "store/runs.py", "analysis/conditions.py"):
        with (package / name).open("a") as file:
            file.write("# changed\n")
        seen.add(digest())
    assert len(seen) == 4
    monkeypatch.setattr(cache.gradbench, "__file__", str(tmp_path / "nowhere/__init__.py"))
    assert digest() is None


def test_a_cache_that_comes_with_a_results_folder_is_not_shown(run, home, times_judged):
    judged(run)
    name = entry(home).name
    head = len(cache.MAGIC)
    # As well made as one who knows the code can make it, in every place of that folder.
    data = cache.MAGIC + cache._checksum(Path(name).stem, forged()) + forged()
    assert len(data) > head
    for place in (run.parent / ".cache", run.parent.parent / ".cache", run.parent.parent / "cache"):
        (place / "gradbench/verdicts").mkdir(parents=True)
        for target in (place, place / "gradbench/verdicts"):
            (target / name).write_bytes(data)
            (target / f"{run.stem}-0123456789abcdef").write_bytes(data)
    entry(home).unlink()
    assert judged(run) == TRUE


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o722])
def test_a_folder_that_others_can_write_to_is_not_read(run, home, times_judged, mode):
    judged(run)
    home.chmod(mode)
    judged(run)
    assert len(times_judged) == 2


def test_a_folder_or_an_entry_of_another_user_is_not_read(run, home, times_judged, monkeypatch):
    judged(run)
    monkeypatch.setattr(os, "geteuid", lambda: home.stat().st_uid + 1)
    judged(run)
    assert len(times_judged) == 2
    assert len(list(home.iterdir())) == 1


def replaced_by(path: Path, kind: str) -> None:
    data = path.read_bytes()
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "dead link":
        path.symlink_to("nowhere")
    elif kind == "looping link":
        path.symlink_to(path)
    else:
        target = path.parent.parent / "elsewhere"
        target.write_bytes(data)
        path.symlink_to(target)


@pytest.mark.parametrize("kind", ["directory", "FIFO", "dead link", "looping link", "link"])
def test_an_entry_that_is_no_file_is_passed_over(run, home, times_judged, kind):
    judged(run)
    replaced_by(entry(home), kind)
    assert judged(run) == TRUE
    assert len(times_judged) == 2
    assert not list(home.glob("*.draft"))


@pytest.mark.parametrize("kind", ["file", "FIFO", "link", "dead link"])
def test_a_folder_that_is_none_costs_the_cache_only(run, home, times_judged, tmp_path, kind):
    home.parent.mkdir(parents=True)
    if kind == "file":
        home.write_text("mine")
    elif kind == "FIFO":
        os.mkfifo(home)
    else:
        home.symlink_to(tmp_path if kind == "link" else tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    assert judged(run) == judged(run) == TRUE
    assert len(times_judged) == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_made_or_written_costs_the_cache_only(
    run, home, times_judged, monkeypatch
):
    def refuse(*arguments, **more):
        raise OSError(30, "Read-only file system")

    for name in ("mkdir", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, refuse)
            assert judged(run) == TRUE
    assert not home.exists() or not list(home.iterdir())
    assert len(times_judged) == 2
    judged(run)
    assert entry(home)


def test_without_a_home_there_is_no_cache(run, monkeypatch, times_judged):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("XDG_CACHE_HOME", "relative/folder")
    monkeypatch.setattr(Path, "home", homeless)
    assert cache.folder() is None
    assert judged(run) == judged(run) == TRUE
    assert len(times_judged) == 2


def test_the_cache_does_not_grow_without_end(home, monkeypatch):
    names = [f"{number:064x}" for number in range(8)]
    monkeypatch.setattr(cache, "LIMIT", 5000)
    for number, name in enumerate(names[:4]):
        cache.save(name, b"x" * 1000)
        used = time.time() - 100 + number
        os.utime(home / f"{name}.verdicts", (used, used))
    # The one used last stays, whenever it was made.
    assert cache.load(names[0])
    cache.save(names[4], b"x" * 1000)
    assert {path.stem for path in home.iterdir()} == {names[i] for i in (0, 2, 3, 4)}
    cache.save(names[5], b"x" * 6000)
    assert cache.load(names[5]) is None
    old = time.time() - cache.AGE - 10
    os.utime(home / f"{names[2]}.verdicts", (old, old))
    cache.save(names[6], b"x")
    assert cache.load(names[2]) is None


def test_only_files_of_the_cache_are_removed(home, monkeypatch):
    cache.save("0" * 64, b"x")
    others = ["notes.verdicts", "20260101-000000-abcdef-0123456789abcdef", "1" * 64, "a.draft"]
    forgotten = f"{'2' * 64}.{'3' * 16}.draft"
    for name in [*others, forgotten]:
        (home / name).write_text("")
        os.utime(home / name, (1, 1))
    (home / f"{'4' * 64}.verdicts").mkdir()
    cache.save("5" * 64, b"x")
    kept = {path.name for path in home.iterdir()}
    assert kept > set(others)
    assert f"{'4' * 64}.verdicts" in kept
    assert forgotten not in kept


def test_names_of_runs_that_begin_alike_or_are_globs_do_not_touch_each_other(
    tmp_path, home, times_judged
):
    paths = [tmp_path / name for name in ("a.jsonl", "a-b.jsonl", "[a]*.jsonl")]
    for _ in range(2):
        for path in paths:
            if not path.exists():
                unpacked(path)
            judged(path)
    assert len(times_judged) == len(paths) == len(list(home.iterdir()))


def test_a_run_that_grows_while_it_is_judged_is_not_kept(run, home, monkeypatch):
    def growing(*arguments):
        with run.open("a") as file:
            file.write("{}\n")
        return TRUE

    monkeypatch.setattr(judge, "judge_run", growing)
    judged(run)
    assert not home.exists()


def test_an_entry_holds_what_was_judged(run, home):
    found = judged(run)
    content = cache.load(entry(home).stem)
    assert content is not None
    assert msgspec.msgpack.decode(content, type=Judged, dec_hook=parsed) == found == TRUE
