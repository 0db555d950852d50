"""What a training run will score: a scaling law, fitted to short runs of this trainer, by which the probe chooses.

    Law     its coefficients
    LAW     those of `python -m benchmarks.learning fit`

    score   E + A N^-alpha + K D^-beta                 a larger model, more text              (arXiv 2203.15556)
              + kappa log2(B / (b d^1/2))^2            a step of another size than the best   (arXiv 2401.02954)
              + C max(0, D/U - 1)^p (N/U)^q            text that is read again and again      (arXiv 2305.16264)

N: millions of weights that take part in matrix products. D: megabytes of text trained on; d: the same in bytes.
B: bytes of text in a step. U: megabytes of text there are. Scores are bits per byte of validation text. E is the text's
own, and nothing here knows it: for another text only differences between scores mean something.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MILLION = 1e6
MOST_WEIGHTS_PER_BYTE = 4.0  # N / U; the runs that the law was fitted to have up to 3.2


@dataclass(frozen=True)
class Law:
    E: float
    A: float
    K: float
    kappa: float
    C: float
    alpha: float
    beta: float
    b: float
    p: float
    q: float
    spread: float  # bits per byte: standard deviation of the runs around it

    def score(self, weights: int, step_bytes: float, trained_bytes: float, text_bytes: float) -> float:
        """Bits per byte; infinite without a step."""
        if trained_bytes <= 0:
            return math.inf
        N, D, U = weights / MILLION, trained_bytes / MILLION, text_bytes / MILLION
        return (self.E + self.A * N**-self.alpha + self.K * D**-self.beta
                + self.kappa * math.log2(step_bytes / self.best_step_bytes(trained_bytes)) ** 2
                + self.C * max(0.0, D / U - 1) ** self.p * (N / U) ** self.q)

    def best_step_bytes(self, trained_bytes: float) -> float:
        return self.b * math.sqrt(trained_bytes)


LAW = Law(E=0.8670, A=0.2039, K=0.9223, kappa=0.01742, C=0.04216, alpha=0.3307, beta=0.2272, b=4.363, p=1.224, q=0.5888,
          spread=0.01469)
