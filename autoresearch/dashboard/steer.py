"""What a person changes on the dashboard: guidance for the researcher, and the queue of their own experiments.

A guidance that was changed in the meantime is not overwritten: the form says which bytes it was made from. Nor is one
that a form can't hold, because it is not UTF-8.
"""

from __future__ import annotations

import hashlib
import threading

from autoresearch.errors import UserError
from autoresearch.report.files import put
from autoresearch.research import person
from autoresearch.research.queue import Queued
from autoresearch.research.study import Study
from autoresearch.research.workspace import GUIDANCE

GUIDANCE_BYTES = 64 << 10
_saving = threading.Lock()  # of two forms that are sent at once the second sees what the first has saved


def carry_out(study: Study, path: str, form: dict[str, str]) -> str:
    """What was done, in a sentence. UserError for what can't be."""
    if path == "/guidance":
        return save(study, form.get("text", ""), form.get("digest", ""))
    if path == "/queue":
        return add(study, " ".join(form.get("hypothesis", "").split()), form.get("changes", ""))
    if path == "/queue/remove":
        return remove(study, form.get("id", ""))
    raise UserError(f"nothing can be changed at {path}", "Load the page again.")


def guidance(study: Study) -> bytes:
    path = study.worktree / GUIDANCE
    return path.read_bytes() if path.is_file() else b""


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def save(study: Study, text: str, made_from: str) -> str:
    text = text.replace("\r\n", "\n")
    if len(text.encode("utf-8", "replace")) > GUIDANCE_BYTES:
        raise UserError(f"the guidance has more than {GUIDANCE_BYTES:,} bytes", "Shorten it.")
    with _saving:
        before = guidance(study)
        if digest(before) != made_from:
            raise UserError("the guidance was changed by somebody else since this page was loaded",
                            "Copy your text, load the page again, and put both together.")
        try:
            before.decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{study.worktree / GUIDANCE} is not UTF-8: saved from here, its other characters would be "
                            "lost", "Save it as UTF-8 in an editor, then load the page again.") from None
        whole = text if text.endswith("\n") or not text else text + "\n"
        put(study.worktree / GUIDANCE, whole.encode("utf-8", "replace"))
    return "Saved. The researcher reads it before its next proposal."


def queue(study: Study) -> list[Queued]:
    return study.ledger.queue.waiting()


def add(study: Study, hypothesis: str, lines: str) -> str:
    if not hypothesis:
        raise UserError("the experiment has no message", "Say in one line what it should do.")
    changes = person.typed(tuple(line for line in lines.splitlines() if line.strip()))
    person.check(study.workspace, changes, "")
    with Study.open(study.clone, study.tag) as writable:
        id = writable.ledger.queue.add(hypothesis, changes)
    return f"Queued as {id}: it comes before anything a researcher proposes."


def remove(study: Study, id: str) -> str:
    with Study.open(study.clone, study.tag) as writable:
        if not (id.isascii() and id.isdigit() and len(id) < 19 and writable.ledger.queue.remove(int(id))):
            raise UserError("that experiment does not wait any more", "It has begun, or somebody took it out.")
    return f"Removed {id} from the queue."
