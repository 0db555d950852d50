"""Keys that help only together are proposed together, to studies that began without them."""

from __future__ import annotations

import math
from collections import Counter

from autoresearch.research.researchers.bundles import BUNDLES, preset
from backends.recipe import Recipe, load, preset_file
from benchmarks.simulated import Study

GPT2, MODERN = (load(preset_file(name)) for name in ("gpt2", "modern"))


def muon_at_its_rate(r: Recipe) -> float:
    """What one key alone makes worse."""
    if r.optim.matrix_rule == "muon":
        return 1.4 + 0.05 * abs(math.log2(r.optim.matrix_lr / 0.04))
    return 1.5 + 0.05 * max(0.0, math.log2(r.optim.matrix_lr / 0.0006))


def offered(study: Study) -> list[str]:
    """Labels of the bundles that were proposed, in turn."""
    labels = {bundle.label for bundle in BUNDLES}
    return [label for p in study.proposals if (label := p.hypothesis.partition(":")[0]) in labels]


def test_a_study_from_gpt2_is_first_offered_muon_with_its_rate() -> None:
    study = Study(GPT2, muon_at_its_rate)
    first = study.step()
    assert {"optim.matrix_rule": "muon", "optim.matrix_lr": 0.04}.items() <= first.changes.items()
    assert study.ledger[1].verdict == "keep"
    assert study.recipe.flat().items() >= {key: preset()[key] for key in BUNDLES[0].keys}.items()


def test_a_bundle_that_failed_is_not_offered_again() -> None:
    study = Study(GPT2, lambda r: 1.5).run(60)
    assert Counter(offered(study)) == {bundle.label: 1 for bundle in BUNDLES}


def test_a_bundle_that_failed_gets_another_look_when_the_incumbent_has_moved_on() -> None:
    def untied_and_rotary_without_muon(r: Recipe) -> float:
        return 1.5 + 0.1 * (r.optim.matrix_rule == "muon") + 0.1 * r.model.tied_embeddings \
            + 0.1 * (r.model.positions == "learned") + 0.1 * (r.schedule.warmdown_frac > 0.9)

    study = Study(GPT2, untied_and_rotary_without_muon).run(12)
    assert offered(study)[0] == "update rule" and offered(study).count("update rule") == 2


def test_a_study_from_the_preset_is_offered_none_also_where_it_has_turned_a_first_key() -> None:
    best = 0.9  # away from where it began
    study = Study(MODERN, lambda r: 1.5 + 0.5 * abs(r.schedule.warmdown_frac - best)).run(60)
    assert study.recipe.schedule.warmdown_frac > 0.6
    assert offered(study) == []


def test_every_bundle_is_whole_in_the_preset_and_missing_from_gpt2() -> None:
    ours = GPT2.flat()
    for bundle in BUNDLES:
        assert set(bundle.keys) <= preset().keys()
        assert ours[bundle.keys[0]] != preset()[bundle.keys[0]], bundle.label
    assert MODERN.replace({key: preset()[key] for bundle in BUNDLES for key in bundle.keys}) == MODERN
