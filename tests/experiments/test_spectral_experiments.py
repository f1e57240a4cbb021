"""Spectral starts skip the plateau, leading directions align, and the claims fail where they should."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from neurocollapse.experiments.recovery import alignment, spectral_init
from neurocollapse.experiments.recovery.alignment import spread_target
from neurocollapse.experiments.workplace import Workplace

QUIET = Workplace(progress=False)


def test_spectral_starts_arrive_sooner() -> None:
    setting = spectral_init.SpectralInit(
        sizes=(20, 30, 12),
        ranks=(2, 2, 1),
        fraction=0.6,
        measurements=140,
        learning_rates=(4.0, 6.0, 3.0),
        num_steps=(4000, 4000, 2000),
        seed=3,
    )
    outcome = spectral_init.EXPERIMENT(setting, workplace=QUIET)
    assert outcome.dataset["num_parameters"].sel(network="full").values.tolist() == [1200, 2700, 432]
    assert outcome.dataset["num_parameters"].sel(network="compressed").values.tolist() == [176, 256, 52]
    assert outcome.status == "holds"
    turned = outcome.dataset.isel(network=[1, 0]).assign_coords(network=["full", "compressed"])
    outcomes = [verdict.outcome for verdict in spectral_init.claims(turned)]
    assert outcomes[0::3] == outcomes[1::3] == ["violated"] * 3
    stuck = outcome.dataset.assign(test_error=0.5 + 0 * outcome.dataset["test_error"])
    assert [verdict.outcome for verdict in spectral_init.claims(stuck)][:3] == [
        "assumptions unmet",
        "holds",
        "violated",
    ]
    assert len(outcome.figure().axes) == 3
    assert all({"long_name", "units"} <= set(variable.attrs) for variable in outcome.dataset.data_vars.values())
    with pytest.raises(ValueError, match="one entry for each of factorization, completion, sensing"):
        spectral_init.EXPERIMENT(replace(setting, ranks=(1, 1)), workplace=QUIET)


@pytest.mark.slow
def test_factorization_and_completion_drop_where_the_figures_show() -> None:
    printed = spectral_init.EXPERIMENT.paper
    setting = replace(
        printed, sizes=(100, 100, 12), ranks=(10, 5, 1), measurements=140, learning_rates=(1.0, 10.0, 3.0)
    )
    outcome = spectral_init.EXPERIMENT(setting, workplace=QUIET)
    steps = [verdict for verdict in outcome.verdicts if " at step " in verdict.claim]
    assert [verdict.outcome for verdict in steps] == ["holds"] * 4
    late = outcome.dataset.assign(num_steps=1.2 * outcome.dataset["num_steps"])
    assert "violated" in {verdict.outcome for verdict in spectral_init.claims(late) if " at step " in verdict.claim}


@pytest.mark.slow
@pytest.mark.parametrize("module", [spectral_init, alignment])
def test_the_small_settings_hold_for_another_seed(module) -> None:  # type: ignore[no-untyped-def]
    assert module.EXPERIMENT(replace(module.EXPERIMENT.small, seed=1), workplace=QUIET).status == "holds"


def test_a_target_has_evenly_spread_singular_values() -> None:
    gaussian = torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    values = torch.linalg.svdvals(spread_target(12, 3, 5))
    torch.testing.assert_close(values[:3], torch.linalg.svdvals(gaussian)[[0, 2, 4]])
    assert float(values[3]) < 1e-12


def test_directions_align_straight_only_when_all_entries_are_seen() -> None:
    setting = alignment.Alignment(
        size=30, rank=4, fractions=(1.0, 0.5), learning_rate=6.0, num_steps=4000, check_every=20, seed=2
    )
    outcome = alignment.EXPERIMENT(setting, workplace=QUIET)
    assert outcome.status == "holds"
    turned = outcome.dataset.isel(fraction=[1, 0]).assign_coords(fraction=[1.0, 0.5])
    outcomes = [verdict.outcome for verdict in alignment.claims(turned)]
    assert outcomes[1] == outcomes[3] == "violated"
    short = outcome.dataset.assign(left_alignment=0.5 * outcome.dataset["left_alignment"])
    assert [verdict.outcome for verdict in alignment.claims(short)][::2] == ["violated", "violated"]
    for name in ("left_alignment", "right_alignment"):
        values = outcome.dataset[name].values
        assert np.nanmin(values) >= 0
        assert np.nanmax(values) <= 1 + 1e-12
    assert [ax.get_ylim()[0] for ax in outcome.figure().axes] == [0, 0]
