"""The replay audit: does the model still say the same where the future is another?

A fresh logits server is given scored rows again, in another order and other batches. Up to a secret position
a row is the row that was scored; from there on it is the text of some other row. The logits at the position
must equal those recorded when scoring. A replaced future shows more than a cut-off one: the rows look like
any other rows, so a model can't behave well only when it is being replayed.

Rounding differs a little with the batch, and a model could hide a hint in that little. So the true tokens must
also not have been likelier when scoring than in the replay, on the average over all positions.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from autoresearch.data.prepared import load
from autoresearch.harness import checkpoint, jobs
from autoresearch.harness.parent import end_with_parent
from autoresearch.harness.scorer import Rows, surprise
from autoresearch.harness.seal import seal
from autoresearch.harness.serving import LogitsServer, Served, ServerFailed

# How far any logit, counted from the largest, may differ. On one CPU honest models show 0: a row's arithmetic does not
# depend on its neighbours. GPUs choose other kernels for other batches; what other kernels can do was measured between
# torch and MLX, which share none: 2e-5 in float32, 0.05 in bfloat16 (0.4 where logits are absurd, up to 38). float32
# leaves room for TF32.
TOLERANCE = {"float32": 2e-3, "bfloat16": 0.25, "float16": 0.25}
# Nats by which the true tokens may have been likelier when scored, on the average. Measured likewise: 2e-7 and 2e-3.
GAIN_NATS = {"float32": 2e-4, "bfloat16": 5e-3, "float16": 5e-3}
IMPLAUSIBLE_NATS = -20.0  # below the likeliest token: further down nothing matters to a score


def replayed(inputs_RT: np.ndarray, rows: np.ndarray, positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(S, T): each row kept up to and including its position, another row's text after it; where there is no other, its
    own from elsewhere."""
    (R, T), S = inputs_RT.shape, len(rows)
    places_T = np.arange(T)
    if R > 1:
        other_ST = inputs_RT[(rows + rng.integers(1, R, S)) % R]
    else:
        other_ST = inputs_RT[0][(places_T + rng.integers(1, T, S)[:, None]) % T]
    return np.where(places_T > positions[:, None], other_ST, inputs_RT[rows])


def replay(job: jobs.ScoreJob) -> dict[str, object]:
    found = load(job.prepared)
    tokenizer = found.tokenizer(job.tokenizer)
    all_rows = Rows.of(found.rows(job.split)[: job.rows], tokenizer)
    inputs_RT = all_rows.inputs_RT
    with np.load(job.recorded, allow_pickle=False) as recorded:
        rows, positions, logits_SV = recorded["rows"], recorded["positions"], recorded["logits"]
        if str(recorded["weights"]) != checkpoint.sha256(job.weights):
            raise ServerFailed("crash", "what was recorded for the replay is of other weights")
    rng = np.random.default_rng()
    order = rng.permutation(len(rows))
    rows, positions, logits_SV = rows[order], positions[order], logits_SV[order]
    tokens_ST = replayed(inputs_RT, rows, positions, rng)
    served = Served(job.backend, job.recipe, tokenizer.vocab, job.weights, job.tree, job.folder, timed=True)
    targets_S = all_rows.targets_RT[rows, positions]
    worst, gains = 0.0, list[np.ndarray]()
    with LogitsServer(served, inputs_RT.shape[1], max_batch=int(rng.integers(2, 4))) as server:
        for start in range(0, len(rows), server.batch):
            some = slice(start, start + server.batch)
            got_BTV = server.ask(tokens_ST[some])
            got_BV = got_BTV[np.arange(len(got_BTV)), positions[some]]
            worst = max(worst, float(np.abs(_plausible(got_BV) - _plausible(logits_SV[some])).max()))
            gains.append(_nats(got_BV, targets_S[some]) - _nats(logits_SV[some], targets_S[some]))
    gain_S = np.concatenate(gains)
    return {"status": "ok", "positions": len(rows), "difference": worst, "gain_nats": float(gain_S.mean()),
            "gain_error": float(gain_S.std() / len(rows) ** 0.5), "seal": seal(job.nonce, found, job.tokenizer)}


def judge(result: dict[str, Any], precision: str) -> tuple[bool, str]:
    """(honest, the finding in words)."""
    finding = f"replay of {result['positions']} positions: logits differ by at most {result['difference']:.2g}"
    cause = "the model's predictions depend on later tokens, on other rows, or on earlier calls"
    if result["difference"] > TOLERANCE[precision]:
        return False, f"{finding}, {TOLERANCE[precision]:g} allowed: {cause}"
    if result["gain_nats"] - 3 * result["gain_error"] > GAIN_NATS[precision]:
        return False, (f"{finding}, but the true tokens were {result['gain_nats']:.2g} nats likelier when scored, "
                       f"{GAIN_NATS[precision]:g} allowed: {cause}")
    return True, finding


def _plausible(logits_BV: np.ndarray) -> np.ndarray:
    return np.maximum(logits_BV - logits_BV.max(axis=1, keepdims=True), IMPLAUSIBLE_NATS)


def _nats(logits_BV: np.ndarray, targets_B: np.ndarray) -> np.ndarray:
    return surprise(logits_BV[:, None], targets_B[:, None])[:, 0]


def main() -> None:
    end_with_parent()
    job = jobs.parse(jobs.ScoreJob, sys.stdin.read())
    try:
        result = replay(job)
    except ServerFailed as e:
        result = {"status": e.status, "reason": e.reason, "cause": e.cause}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
