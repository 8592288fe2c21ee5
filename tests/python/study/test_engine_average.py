"""Our FedAvg against the engine's own: the same sites' turns, averaged by NVIDIA FLARE."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmed_edge.images.dataset import Task, read_dataset
from fedmed_edge.study.methods.averaging import FedAvg
from fedmed_edge.study.methods.work import Work
from fedmed_edge.study.plan import Budget

pytest.importorskip("nvflare", reason="the extra `federation` is not installed")


class EngineFedAvg(FedAvg):
    """FedAvg whose server is the engine's aggregator, the one that its FedAvg jobs take by default."""

    def merge(self, states: Mapping[str, Any], images: Mapping[str, int]) -> None:
        from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
        from nvflare.apis.event_type import EventType
        from nvflare.apis.fl_constant import ReservedKey
        from nvflare.apis.fl_context import FLContext
        from nvflare.app_common.aggregators.intime_accumulate_model_aggregator import (
            InTimeAccumulateWeightedAggregator,
        )
        from nvflare.app_common.app_constant import AppConstants

        aggregator, context = (
            InTimeAccumulateWeightedAggregator(expected_data_kind=DataKind.WEIGHTS),
            FLContext(),
        )
        aggregator.handle_event(EventType.START_RUN, context)
        context.set_prop(AppConstants.CURRENT_ROUND, 0)
        for site, state in states.items():
            said = DXO(DataKind.WEIGHTS, data=dict(state))
            said.set_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND, images[site])
            shareable = said.to_shareable()
            shareable.add_cookie(AppConstants.CONTRIBUTION_ROUND, 0)
            shareable.set_peer_props({ReservedKey.IDENTITY_NAME: site})
            assert aggregator.accept(shareable, context)
        average = from_shareable(aggregator.aggregate(context)).data
        self.common = {name: np.asarray(average[name], value.dtype) for name, value in self.common.items()}


def test_our_fedavg_is_the_engines(
    tmp_path: Path, write_task: Callable[[Path, str], Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Averages differ in the last digit of float32, which the next round rounds to bfloat16: up to 2⁻⁸ apart.
    monkeypatch.setattr("fedmed_edge.features.training.half_precision", lambda place: None)
    task = write_task(tmp_path / "task", "classification")
    sites = {site: read_dataset(folder, task.recipe).train for site, folder in task.sites.items()}
    # Sites of different size, so that the weights count.
    sites["beta"] = sites["beta"].subset(range(4))
    budget = Budget(4, 1, 2, 2, 3, 4, until_plateau=False)
    reached = []
    for kind in (FedAvg, EngineFedAvg):
        work = Work(
            recipe=task.recipe, sites=sites, budget=budget, seed=0, device="cpu", watch=lambda s: None
        )
        trained = kind(work, {})
        trained.cycle(0)
        reached.append(trained.common)
    for name, value in reached[0].items():
        assert np.abs(np.asarray(value, float) - reached[1][name]).max() <= 1e-6, name
