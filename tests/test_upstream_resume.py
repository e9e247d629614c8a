"""What scripts written for upstream lean on when a run goes on, and in its small functions."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import dacapo
from conftest import small_experiment
from dacapo.experiments import RunConfig, TrainingIterationStats, TrainingStats
from dacapo.store import Stores


@pytest.mark.parametrize("by_name", [True, False])
def test_losses_without_weights_begin_anew(
    tmp_path: Path, stores: Stores, by_name: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Losses in the store whose weights are gone are no obstacle: it is said, and training begins at 0 (defect 20)."""
    run = RunConfig.from_dict(small_experiment(tmp_path, num_iterations=2))
    stores.configs.store_run_config(run)
    old = TrainingStats([TrainingIterationStats(i, 9.0, 0.1) for i in range(5)])
    stores.stats.store_training_stats("small", old)
    with caplog.at_level(logging.WARNING):
        dacapo.train("small" if by_name else run, validate=False, stores=stores)
    assert "until iteration 5 but no weights" in caplog.text
    losses = stores.stats.retrieve_training_stats("small").iteration_stats
    assert [s.iteration for s in losses] == [0, 1]
    assert all(s.loss != 9.0 for s in losses)


def test_the_scheduler_has_the_learning_rates_of_training(small_run: RunConfig) -> None:
    """lr_scheduler steps through learning_rate_at, from the iteration the run stands at."""
    scheduler, rates = small_run.lr_scheduler, []
    for _ in range(6):
        rates += scheduler.get_last_lr()
        small_run.optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(rates, [small_run.learning_rate_at(i) for i in range(6)])
    later = small_run.model_copy()
    for name in ("lr_scheduler", "optimizer", "training_stats"):
        later.__dict__.pop(name, None)
    later.training_stats.add_iteration_stats(TrainingIterationStats(3, 1.0))
    np.testing.assert_allclose(later.lr_scheduler.get_last_lr(), [small_run.learning_rate_at(4)])


def test_the_optimizer_moves_with_the_model(small_run: RunConfig) -> None:
    """`to` takes the optimiser's state along, as a resumed run on a GPU needs; step counts stay."""
    for parameter in small_run.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    small_run.optimizer.step()
    assert small_run.device == torch.device("cpu")
    small_run.move_optimizer("meta", empty_cuda_cache=True)
    for state in small_run.optimizer.state.values():
        assert state["exp_avg"].device.type == state["exp_avg_sq"].device.type == "meta"
        assert state["step"].device.type == "cpu"
    small_run.to(torch.device("meta"))
    assert small_run.device == torch.device("meta")


def test_balanced_weights_of_slabs_and_masks() -> None:
    """Each class weighs 1 / (classes * fraction) of its slab; masks multiply, and what they hide is not counted."""
    from dacapo.utils.balance_weights import balance_weights

    labels = np.zeros((2, 10, 10), np.uint8)
    labels[0, 0] = 1
    weights, counts = balance_weights(labels, 2, slab=(1, -1, -1), moving_counts="kept")
    assert counts == "kept"
    np.testing.assert_allclose(weights[0, 0], 5.0)
    np.testing.assert_allclose(weights[0, 1:], 1 / 1.8)
    np.testing.assert_allclose(weights[1], 1 / 1.9, rtol=1e-6)  # fractions are clipped to 0.95
    mask = np.ones((10, 10), np.uint8)
    mask[5:] = 0
    masked, _ = balance_weights(labels[0], 2, [mask, np.full((10, 10), 0.5)])
    np.testing.assert_allclose(masked[0], 0.5 / 0.4)
    assert not masked[5:].any()
    assert balance_weights(labels, 2)[0].max() == pytest.approx(1 / (2 * 0.05))
    with pytest.raises(ValueError, match="0 to 1"):
        balance_weights(labels + 1, 2)


def test_padding_keeps_fractions_of_nanometres() -> None:
    """Voxel sizes are floats, and so is how far offsets reach, both ways."""
    from dacapo.utils.affinities import padding

    assert padding([(1, 0, 0), (0, -2, 1), (0, 0, -3)], (5.24, 4, 4)) == ((0.0, 8.0, 12.0), (5.24, 0.0, 4.0))
    assert padding([(1, 0)], (5.24, 4.0)) == ((0.0, 0.0), (5.24, 0.0))


def test_noise_takes_kwargs_first() -> None:
    """By position the first field is upstream's only one."""
    from dacapo.experiments.trainers.gp_augments import NoiseAugmentConfig

    assert NoiseAugmentConfig({"var": 0.01}) == NoiseAugmentConfig(kwargs={"var": 0.01})
