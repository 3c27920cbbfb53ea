"""The workload in pfl: a federated algorithm whose statistics are soft labels. Needs `pip install 'pfl[pytorch]'`."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import FederatedAlgorithm
from pfl.common_types import Population
from pfl.context import CentralContext
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.hyperparam.base import AlgorithmHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from pfl.stats import MappedVectorStatistics
from torch import nn

from benchmarks.workload import BATCH, LR, MOMENTUM, Case, federation

DEVICE = os.environ.get("PFL_PYTORCH_DEVICE", "cpu")
TRAINING = NNTrainHyperParams(local_num_epochs=1, local_learning_rate=LR, local_batch_size=BATCH)


class Distillation(FederatedAlgorithm):  # type: ignore[misc]
    """An algorithm that loads each user's parameters into the one model, as pfl does with stateful users."""

    def __init__(self, proxy: torch.Tensor) -> None:
        super().__init__()
        self.proxy = proxy
        self.teacher = torch.full((len(proxy), 10), 0.1, device=DEVICE)
        self.parameters: dict[str, Any] = {}

    def simulate_one_user(self, model: Any, user_dataset: Any, central_context: Any) -> tuple[Any, Metrics]:
        """Distil, train and predict for one user."""
        user = user_dataset.user_id
        if user in self.parameters:
            model.set_parameters(self.parameters[user])
        shared = Dataset(raw_data=[self.proxy, self.teacher], user_id=user)
        for data in (shared, user_dataset):
            model.do_multiple_epochs_of(data, TRAINING, _step)
        self.parameters[user] = model.get_parameters(self.parameters.get(user))
        module = model.pytorch_model
        with torch.no_grad():
            predictions = torch.cat([module(x).softmax(1) for x in self.proxy.split(256)])
        return MappedVectorStatistics({"soft labels": predictions}), Metrics()

    def get_next_central_contexts(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: the caller starts the rounds."""
        raise NotImplementedError

    def process_aggregated_statistics(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: the caller processes the results of the rounds."""
        raise NotImplementedError


class PflFederation:
    """A federation with all users of a case."""

    def __init__(self, case: Case, module: nn.Module) -> None:
        fed = federation(case)
        users = {
            str(c.client): Dataset(raw_data=[torch.from_numpy(part).to(DEVICE) for part in (c.x, c.y)])
            for c in fed.clients
        }
        order = iter(_forever(list(users)))
        data = FederatedDataset(lambda user: Dataset(raw_data=users[user].raw_data, user_id=user), lambda: next(order))
        self._backend = SimulatedBackend(data, data)
        self._algorithm = Distillation(torch.from_numpy(fed.proxy.x).to(DEVICE))
        module.loss = module.metrics = lambda *_: None  # type: ignore[assignment]
        self._model = PyTorchModel(
            module,
            lambda p, lr: torch.optim.SGD(p, lr, MOMENTUM),
            torch.optim.SGD(module.parameters(), 1.0),
        )
        self._context = CentralContext(
            current_central_iteration=0,
            do_evaluation=False,
            cohort_size=len(users),
            population=Population.TRAIN,
            model_train_params=TRAINING,
            model_eval_params=NNEvalHyperParams(local_batch_size=None),
            algorithm_params=AlgorithmHyperParams(),
            seed=0,
        )

    async def round(self) -> None:
        """Run one round."""
        total, _ = await self._backend.async_gather_results(self._model, self._algorithm, central_context=self._context)
        self._algorithm.teacher = total["soft labels"] / self._context.cohort_size


def _forever(users: list[str]) -> Any:
    while True:
        yield from np.asarray(users)


def _step(module: nn.Module, optimizer: Any, raw_data: Any, train_kwargs: Any, train_step_args: Any, **_: Any) -> Any:
    x, target = raw_data
    optimizer.zero_grad()
    loss = F.cross_entropy(module(x), target)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
