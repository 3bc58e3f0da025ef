"""The workflow for CI in docs/releases.md, with commands that only say what they were asked."""

import os
import stat

import pytest
import workflow

GRADBENCH = """#!/bin/sh
echo "gradbench $*" >> "$HOME/said"
case "$*" in
*"$FAILS"*) echo "failing" >&2; mkdir -p results/releases; echo x > results/releases/log; exit 1;;
esac
mkdir -p results/releases && echo x > results/releases/log
"""


@pytest.fixture
def job(tmp_path):
    """Runs the job with a newest release of that name, where a command that has `fails` in it
    fails; returns the outcome, what gradbench was asked, and the folder of caches."""
    clone, home, cache = (tmp_path / name for name in ("clone", "home", "cache"))
    for name, text in {
        "clone/.venv/bin/gradbench": GRADBENCH,
        "bin/pip": '#!/bin/sh\nif [ "$1" = index ]; then echo "torch ($NEWEST_IS)"; fi\n',
        "bin/make": "#!/bin/sh\n",
    }.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    home.mkdir()

    def run(newest, fails="nothing of this"):
        said = home / "said"
        said.write_text("")
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        more = {"PATH": path, "NEWEST_IS": newest, "FAILS": fails}
        return workflow.run(clone, cache, home, more), said.read_text(), cache

    return run


def test_the_newest_release_is_tracked_beside_the_baseline_and_judged(job):
    outcome, said, cache = job("2.99.0")
    assert not outcome.failed
    assert "releases track 2.13.0 2.99.0 --baseline 2.13.0 --torch-backend cpu" in said
    assert "--fail-on slower" in said
    assert (cache / "1/log").exists()


@pytest.mark.parametrize(
    ("fails", "step"), [("--fail-on", "the gate"), ("releases track", "measure the newest")]
)
def test_caches_are_kept_where_a_step_fails(job, fails, step):
    outcome, _, cache = job("2.99.0", fails)
    assert outcome.failed.startswith(step)
    assert (cache / "1/log").exists()


def test_a_baseline_that_is_the_newest_release_is_no_failure(job):
    outcome, said, _ = job("2.13.0")
    assert not outcome.failed
    assert not said
    assert "is the newest release and the baseline" in outcome.summary
