"""What an NVIDIA card can do, from facts about it: a pure function, so every card is tested on any machine.

    Card        the facts
    Abilities   precisions worth trying, whether a step can be compiled, why the card can't be used
    abilities   Card -> Abilities

Sources: the arithmetic table of NVIDIA's CUDA programming guide, and what Triton asks of a card. Which attention kernel
runs, PyTorch decides by the same facts: FlashAttention from sm_80 on, the memory-efficient one before.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOAT16, TRITON, AMPERE = (5, 3), (7, 0), (8, 0)
SLOW_FLOAT16 = (6, 1)  # a 64th of the float32 rate


@dataclass(frozen=True)
class Card:
    name: str
    capability: tuple[int, int]  # (7, 5) is sm_75
    built_for: tuple[str, ...] = ()  # architectures of the framework's build, such as sm_75; empty: not known


@dataclass(frozen=True)
class Abilities:
    precisions: tuple[str, ...]  # the first is what "auto" means until the others are measured
    compiles: bool
    problem: str = ""  # why this build can't use the card at all


def abilities(card: Card) -> Abilities:
    """bf16 came with sm_80; older cards emulate it. float16 before that overflows and underflows, so float32 leads
    there and float16 has to prove itself."""
    return Abilities(_precisions(card), card.capability >= TRITON, _problem(card))


def _precisions(card: Card) -> tuple[str, ...]:
    if card.capability >= AMPERE:
        return ("bfloat16", "float32")
    if card.capability < FLOAT16 or card.capability == SLOW_FLOAT16:
        return ("float32",)
    return ("float32", "float16")


def _problem(card: Card) -> str:
    """A binary runs on cards of its major version that are not older; PTX (compute_) on all later ones."""
    builds = [b for b in card.built_for if b.startswith(("sm_", "compute_"))]  # those of AMD's cards say nothing here
    if not builds or any(_runs(build, card.capability) for build in builds):
        return ""
    sm = "sm_{}{}".format(*card.capability)
    return f"this build of torch has no kernels for {card.name} ({sm}): it was built for {', '.join(builds)}"


def _runs(build: str, capability: tuple[int, int]) -> bool:
    kind, _, number = build.rstrip("af").partition("_")
    if len(number) < 2 or not number.isdigit():
        return False
    built = (int(number[:-1]), int(number[-1]))
    return built <= capability and (kind == "compute" or built[0] == capability[0])
