"""Coding agents as researchers: stand-ins that edit, stray, hang, commit, overspend and pry."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoresearch.cli.researching import Asked, make
from autoresearch.harness import landlock, veil
from autoresearch.records import Spend, Spent
from autoresearch.research.researchers.backed import Backed
from autoresearch.research.researchers.base import NoProposal, Proposal
from autoresearch.research.researchers.command import Command, reported
from autoresearch.research.researchers.playbook import Playbook
from autoresearch.research.researchers.service import Limits
from tests.harness.tiny import gone
from tests.researchers.made import FILES, clone_at, context, night

HIDES = pytest.mark.skipif(sys.platform == "linux" and not landlock.version(), reason="this kernel can't hide folders")
EDIT = ("p = pathlib.Path('backends/gpt/torch_model.py'); p.write_text(p.read_text().replace('x * 2', 'BETTER'))\n"
        "pathlib.Path('hypothesis.txt').write_text('double it\\nas #0 was slow\\n')\n")
Agent = Callable[..., Command]


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    """A stand-in agent, run as `ar loop` runs real ones: behind the veil."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "seen").mkdir()  # beside the secret, nothing new can be made in tmp_path itself
    (tmp_path / "secret" / "val.bin").write_text("validation text")

    def make(script: str, usd: float | None = 5.0, tokens: int | None = None, **fields: object) -> Command:
        path = tmp_path / "agent.py"
        path.write_text("import json, os, pathlib, subprocess, sys, time\nbrief = sys.stdin.read()\n" + script)
        given: dict = dict(prefix=veil.command([tmp_path / "secret"]), most_s=30.0) | fields
        return Command(shlex.join([sys.executable, str(path)]), Limits(usd, tokens), **given)
    return make


def test_its_edits_are_the_proposal(agent: Agent) -> None:
    script = EDIT + """
pathlib.Path('backends/gpt/mlx_model.py').unlink()
p = pathlib.Path('backends/gpt/recipe.toml'); p.write_text(p.read_text() + '[optim]\\nmatrix_lr = 0.02\\n')
pathlib.Path('backends/gpt/new').mkdir(); pathlib.Path('backends/gpt/new/part.py').write_text('x = 1\\n')
"""
    proposal = agent(script).propose(context())
    assert proposal == Proposal("double it", "as #0 was slow", {}, {
        "torch_model.py": "def loss(x):\n    return BETTER\n", "mlx_model.py": None, "new/part.py": "x = 1\n",
        "recipe.toml": FILES["recipe.toml"] + "[optim]\nmatrix_lr = 0.02\n"})


def test_it_is_given_the_brief_and_what_the_candidate_is_built_on(agent: Agent) -> None:
    look = """
for words in ('Make it better.', 'optim.matrix_lr', 'def loss(x)', 'hypothesis.txt'):
    assert words in brief
assert pathlib.Path('backends/recipe.py').is_file() and pathlib.Path('program.md').is_file()
assert subprocess.run(['git', 'status', '--porcelain'], capture_output=True, check=True).stdout == b''
assert 'MY_API_KEY' not in os.environ and os.environ['OTHER_TOKEN'] == 'given'
"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MY_API_KEY", "secret")
        patch.setenv("OTHER_TOKEN", "given")
        assert agent(look + EDIT, passed_on=("OTHER_TOKEN",)).propose(context()).hypothesis == "double it"


def test_commits_of_its_own_change_nothing(agent: Agent) -> None:
    commits = EDIT + """
who = ['-c', 'user.name=x', '-c', 'user.email=x@y']
subprocess.run(['git', 'checkout', '-q', '-b', 'mine'], check=True)
subprocess.run(['git', *who, 'commit', '-qam', 'mine'], check=True)
"""
    assert agent(commits).propose(context()).files == {"torch_model.py": "def loss(x):\n    return BETTER\n"}


@pytest.mark.parametrize(("script", "why"), [
    ("pathlib.Path('backends/recipe.py').write_text('')\n" + EDIT, "it also changed backends/recipe.py"),
    ("pathlib.Path('notes.txt').write_text('')\n" + EDIT, "it also changed notes.txt"),
    ("pathlib.Path('program.md').unlink()\n" + EDIT, "it also changed program.md"),
    ("os.symlink('/etc/passwd', 'backends/gpt/data.py')\n" + EDIT, "data.py is not an ordinary file"),
    ("pathlib.Path('backends/gpt/x.bin').write_bytes(b'\\xff\\xfe')\n" + EDIT, "x.bin is not text"),
    ("pass", "it changed nothing"),
    (EDIT + "print('no such model', file=sys.stderr); sys.exit(3)", "exit code 3: no such model"),
])
def test_what_is_no_proposal_is_refused_with_the_reason(agent: Agent, script: str, why: str) -> None:
    with pytest.raises(NoProposal, match=why):
        agent(script).propose(context())


def test_an_agent_that_fails_every_time_is_left_alone_for_a_while(agent: Agent, tmp_path: Path) -> None:
    failing = agent(f"open({str(tmp_path / 'seen/runs')!r}, 'a').write('x'); sys.exit(1)")
    for _ in range(5):
        with pytest.raises(NoProposal):
            failing.propose(context())
    assert (tmp_path / "seen/runs").read_text() == "xxx"
    failing._rests_until = 0.0
    with pytest.raises(NoProposal, match="exit code 1"):
        failing.propose(context())


def test_what_would_not_be_run_is_no_proposal(agent: Agent) -> None:
    with pytest.raises(NoProposal, match="this is #3 again"):
        agent(EDIT).propose(context(refusal=lambda proposal: "this is #3 again"))


def test_an_agent_that_hangs_is_ended_with_everything_it_started(agent: Agent, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    pids = tmp_path / "seen/pids"
    hangs = f"""
stubborn = 'import time, signal; signal.signal(15, signal.SIG_IGN); time.sleep(600)'
child = subprocess.Popen([sys.executable, '-c', stubborn], start_new_session=True)
pathlib.Path({str(pids)!r} + '.new').write_text(f'{{os.getpid()}} {{child.pid}}')
os.rename({str(pids)!r} + '.new', {str(pids)!r})
time.sleep(600)
"""
    # However long it takes to start, its time is over as soon as it hangs, and not before.
    monkeypatch.setattr("autoresearch.research.researchers.command.time", SimpleNamespace(
        sleep=time.sleep, monotonic=lambda: time.monotonic() + (1000 if pids.exists() else 0)))
    spends = list[Spend]()
    with pytest.raises(NoProposal, match="still at it after 5 minutes and was ended"):
        agent(hangs, most_s=300.0).propose(context(spend=spends.append))
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 2 and all(gone(pid) for pid in started)
    assert "still at it" in spends[0].status and spends[0].latency_s > 300


def test_an_agent_that_leaves_something_running_leaves_nothing(agent: Agent, tmp_path: Path) -> None:
    leaves = f"""
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True,
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
pathlib.Path({str(tmp_path / 'seen/pids')!r}).write_text(str(child.pid))
"""
    agent(leaves + EDIT).propose(context())
    assert gone(int((tmp_path / "seen/pids").read_text()))


@HIDES
def test_it_sees_no_validation_text_whatever_way_it_goes(agent: Agent, tmp_path: Path) -> None:
    secret = tmp_path / "secret" / "val.bin"
    pries = f"""
import ctypes
secret = {str(secret)!r}
found = []
for way in (
        lambda: open(secret).read(), lambda: subprocess.check_output(['cat', secret]),
        lambda: (os.symlink(secret, 'link'), open('link').read()), lambda: os.link(secret, 'backends/gpt/hard.py'),
        lambda: os.rename(secret, 'backends/gpt/moved.py'), lambda: open(secret, 'w'),
        lambda: open(f'/proc/{{os.getppid()}}/root' + secret).read(),
        lambda: open(os.path.dirname(secret) + '/new', 'w')):
    try:
        found.append(repr(way()))
    except (OSError, subprocess.CalledProcessError):
        pass
if os.path.islink('link'):
    os.unlink('link')
pathlib.Path('hypothesis.txt').write_text(repr(found))
pathlib.Path('backends/gpt/extra.py').write_text('x = 1\\n')
"""
    assert agent(pries).propose(context()).hypothesis == "[]"
    assert secret.read_text() == "validation text"


@HIDES
def test_ar_loop_hides_prepared_text_and_studies_from_it_and_nothing_else(tmp_path: Path,
                                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    clone, val = clone_at(tmp_path / "clone"), tmp_path / "cache/data/letters/val.txt"
    val.parent.mkdir(parents=True)
    val.write_text("validation text")
    monkeypatch.chdir(clone)
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    tried = [val, clone / "studies/mar8/ledger.sqlite", clone / "program.md"]
    looks = f"""import pathlib, sys
sys.stdin.read()
found = []
for path in map(pathlib.Path, {[*map(str, tried)]!r}):
    try:
        found.append(path.name if path.read_bytes() else '')
    except OSError:
        pass
pathlib.Path('hypothesis.txt').write_text(' '.join(found))
pathlib.Path('backends/gpt/extra.py').write_text('x = 1\\n')
"""
    asked = Asked("command", agent=shlex.join([sys.executable, "-c", looks]))
    assert all(path.read_bytes() for path in tried)
    assert make(asked).propose(context()).hypothesis == "program.md"


def test_what_it_reports_is_journalled_and_ends_proposing_where_it_is_too_much(agent: Agent, tmp_path: Path) -> None:
    result = {"type": "result", "result": "done", "total_cost_usd": 6.5, "usage": {
        "input_tokens": 10, "output_tokens": 20, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 40},
        "modelUsage": {"claude-opus-5-5": {}}}
    spender = agent(EDIT + f"print(json.dumps({result!r}))")
    found = night(clone_at(tmp_path / "clone"), Backed(spender, Playbook()), 2)
    assert [e.researcher for e in found.experiments] == ["command", "playbook"]
    assert found.experiments[0].verdict == "keep"
    [spend] = found.spends()
    assert (spend.usd, spend.priced, spend.model, spend.tokens()) == (6.5, "reported", "claude-opus-5-5", 100)
    assert any("limit of $5 is reached" in note for note in found.notes)


def test_limits_and_what_is_left_are_handed_over(agent: Agent) -> None:
    shows = agent("pathlib.Path('hypothesis.txt').write_text(sys.argv[1])\n" + EDIT.splitlines()[0])
    shows.command += " {usd_left}"
    assert shows.propose(context(spent=Spent(1.25, 10))).hypothesis == "3.75"
    with pytest.raises(NoProposal, match="--max-tokens"):
        agent(EDIT, tokens=100).propose(context(spent=Spent(0, 100)))


def test_an_agent_that_says_nothing_of_its_cost_is_said_to_be_unbounded(agent: Agent) -> None:
    notes, spends = list[str](), list[Spend]()
    agent(EDIT).propose(context(note=notes.append, spend=spends.append))
    assert "can't be held" in notes[0] and spends[0].usd is None and spends[0].tokens() == 0


def test_reports_of_known_agents_are_read_and_nonsense_is_not() -> None:
    turn = {"type": "turn.completed", "usage": {"input_tokens": 100, "cached_input_tokens": 60, "output_tokens": 5}}
    codex = "\n".join(["thinking ...", json.dumps({"type": "thread.started"}), json.dumps(turn), json.dumps(turn)])
    assert reported(codex) == {"input_tokens": 80, "cache_read_tokens": 120, "output_tokens": 10}
    claude = {"type": "result", "total_cost_usd": 0.25, "usage": {"input_tokens": 7, "output_tokens": 9}}
    want = {"usd": 0.25, "input_tokens": 7, "output_tokens": 9, "cache_write_5m_tokens": 0, "cache_read_tokens": 0}
    assert reported(json.dumps(claude)) == reported(json.dumps([{"type": "system"}, claude])) == want
    for nonsense in ("", "done", "{", "[[[", json.dumps({"total_cost_usd": "much"}), json.dumps({"total_cost_usd": -1}),
                     json.dumps({"type": "turn.completed", "usage": "all of it"})):
        assert not any(reported(nonsense).values())
