"""The scorer process: bits per byte of saved weights on the rows of one split.

Trusted; it holds the text and runs no candidate code. It asks a logits server for raw logits, takes the
log-softmax itself, and records the logits at a few secret positions for the replay audit.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from autoresearch.data.prepared import load
from autoresearch.data.splits import SCORED
from autoresearch.data.tokenizer import Tokenizer
from autoresearch.data.yardstick import sampling_error_bpb
from autoresearch.harness import checkpoint, jobs
from autoresearch.harness.parent import end_with_parent
from autoresearch.harness.seal import seal
from autoresearch.harness.serving import LogitsServer, Served, ServerFailed

MIN_ROWS = 32
RECORDED_BYTES = 32 << 20


@dataclass(frozen=True)
class Rows:
    """The yardstick rows of a split as tokens: inputs begin with BOS, short rows are padded at the end."""

    inputs_RT: np.ndarray
    targets_RT: np.ndarray
    lengths_R: np.ndarray  # scored tokens per row
    bytes_R: np.ndarray
    chars_R: np.ndarray

    @classmethod
    def of(cls, texts: list[bytes], tokenizer: Tokenizer) -> Rows:
        ids = [tokenizer.encode(text) for text in texts]
        lengths = np.array([len(i) for i in ids])
        length = padded(int(lengths.max()))
        inputs = np.full((len(ids), length), tokenizer.bos, np.int32)
        targets = np.zeros((len(ids), length), np.int32)
        for row, tokens in enumerate(ids):
            inputs[row, 1 : len(tokens)] = tokens[:-1]
            targets[row, : len(tokens)] = tokens
        chars = [len(text.decode("utf-8", "surrogateescape")) for text in texts]
        return cls(inputs, targets, lengths, np.array([len(t) for t in texts]), np.array(chars))


def padded(tokens: int) -> int:
    """Tokens in every row of a batch whose longest row has so many."""
    return -(-tokens // 16) * 16


@cache
def longest_row(root: str, tokenizer: str) -> int:
    """Tokens in the longest row that is ever scored, as the model reads it. Sets never change, so this is kept."""
    found = load(root)
    ids = found.tokenizer(tokenizer)
    return padded(max(len(ids.encode(row)) for split in SCORED for row in found.rows(split)))


def surprise(logits_BTV: np.ndarray, targets_BT: np.ndarray) -> np.ndarray:
    """-log softmax(logits)[target] in nats, (B, T). Raises ServerFailed for logits that are not finite."""
    out = np.empty(targets_BT.shape, np.float64)
    for row, logits_TV in enumerate(logits_BTV):
        top_T1 = logits_TV.max(axis=1, keepdims=True)
        if not np.isfinite(top_T1).all():
            raise ServerFailed("invalid", "the model's logits are not finite numbers")
        total_T = np.exp(logits_TV - top_T1).sum(axis=1, dtype=np.float64)
        chosen_T = np.take_along_axis(logits_TV, targets_BT[row][:, None], axis=1)[:, 0]
        out[row] = np.log(total_T) + top_T1[:, 0] - chosen_T
    if not np.isfinite(out).all():
        raise ServerFailed("invalid", "the model's logits are not finite numbers")
    return out


@dataclass
class Recorder:
    """Keeps the logits of secret positions: per row those drawn uniformly, and the one predicted best
    compared with how rare its token is, where a model that sees ahead gives itself away. Where there are more
    than `limit`, a uniform sample of all of them, so that no call to the model is beyond notice."""

    rarity_V: np.ndarray  # nats of each token by frequency alone
    limit: int
    per_row: int = 1  # drawn uniformly
    rng: np.random.Generator = field(default_factory=np.random.default_rng)  # seeded by the system: secret
    rows: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    logits: list[np.ndarray] = field(default_factory=list)
    _seen: int = 0

    def see(self, row: int, length: int, logits_TV: np.ndarray, nats_T: np.ndarray, targets_T: np.ndarray) -> None:
        best = int(np.argmax(self.rarity_V[targets_T[:length]] - nats_T[:length]))
        for position in {*self.rng.integers(length, size=self.per_row).tolist(), best}:
            self._seen += 1
            kept = (row, position, logits_TV[position].copy())
            place = len(self.rows) if len(self.rows) < self.limit else int(self.rng.integers(self._seen))
            if place < self.limit:
                for values, value in zip((self.rows, self.positions, self.logits), kept, strict=True):
                    values[place:place + 1] = [value]  # type: ignore[index]

    def save(self, path: str, weights: str, nats_R: np.ndarray, bytes_R: np.ndarray) -> None:
        np.savez(path, rows=np.array(self.rows), positions=np.array(self.positions), logits=np.array(self.logits),
                 nats=nats_R, bytes=bytes_R, weights=checkpoint.sha256(weights))


def score(job: jobs.ScoreJob) -> dict[str, object]:
    """Sums over the first `job.rows` rows; where that is None, over as many as fit into `job.seconds`."""
    found = load(job.prepared)
    tokenizer = found.tokenizer(job.tokenizer)
    texts = load_rows(job.own_rows) if job.own_rows else found.rows(job.split)
    rows = Rows.of(texts[: job.rows], tokenizer)
    counts_V = np.bincount(rows.targets_RT.ravel(), minlength=tokenizer.vocab) + 1
    recorder = Recorder(-np.log(counts_V / counts_V.sum()), job.per_row * RECORDED_BYTES // (4 * tokenizer.vocab),
                        job.per_row)
    served = Served(job.backend, job.recipe, tokenizer.vocab, job.weights, job.tree, job.folder,
                    timed=bool(job.recorded))  # what is kept for an audit, a verdict may depend on
    nats_R, done = np.zeros(len(rows.lengths_R)), 0
    with LogitsServer(served, rows.inputs_RT.shape[1]) as server:
        started = time.monotonic()
        while done < len(rows.inputs_RT):
            may_stop = job.rows is None and done >= MIN_ROWS
            if may_stop and job.seconds is not None and time.monotonic() - started > job.seconds:
                break
            some = slice(done, done + server.batch)
            logits_BTV = server.ask(rows.inputs_RT[some])
            nats_BT = surprise(logits_BTV, rows.targets_RT[some])
            for i, length in enumerate(rows.lengths_R[some]):
                nats_R[done + i] = nats_BT[i, :length].sum()
                recorder.see(done + i, int(length), logits_BTV[i], nats_BT[i], rows.targets_RT[done + i])
            done += len(logits_BTV)
        seconds = time.monotonic() - started
    if job.recorded:
        recorder.save(job.recorded, job.weights, nats_R[:done], rows.bytes_R[:done])
    scored_RT = np.arange(rows.targets_RT.shape[1]) < rows.lengths_R[:done, None]
    legacy_bytes = tokenizer.legacy_token_bytes[rows.targets_RT[:done][scored_RT]].sum()
    return {"status": "ok", "split": job.split, "nats": float(nats_R.sum()), "tokens": int(rows.lengths_R[:done].sum()),
            "bytes": int(rows.bytes_R[:done].sum()), "chars": int(rows.chars_R[:done].sum()), "rows": done,
            "seconds": seconds, "bpb_error": sampling_error_bpb(nats_R[:done], rows.bytes_R[:done]),
            "legacy_bytes": int(legacy_bytes), "seal": seal(job.nonce, found, job.tokenizer)}


def save_rows(path: Path, texts: list[bytes]) -> None:
    np.savez(path, text=np.frombuffer(b"".join(texts), np.uint8), ends=np.cumsum([0, *map(len, texts)]))


def load_rows(path: str) -> list[bytes]:
    with np.load(path, allow_pickle=False) as stored:
        text, ends = stored["text"].tobytes(), stored["ends"].tolist()
    return [text[start:end] for start, end in itertools.pairwise(ends)]


def main() -> None:
    end_with_parent()
    job = jobs.parse(jobs.ScoreJob, sys.stdin.read())
    try:
        result = score(job)
    except ServerFailed as e:
        result = {"status": e.status, "reason": e.reason, "cause": e.cause}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
