"""Models of a simulation that its run folder keeps, by `run.keep`.

A worker writes a client's model at the evaluation of a round, before the training that may follow in the same round: so
a kept model has the accuracies that the metrics of its round state.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from edgefd.config.schema import Config
from edgefd.data.model_input import InputFormat
from edgefd.federation.plan import RoundPlan
from edgefd.federation.units import units_of
from edgefd.learners.learner import Learner
from edgefd.rounds.loop import RoundResult
from edgefd.runs.load_data import extractor_of, load_raw
from edgefd.runs.model_files import ModelInfo, kept_rounds, model_path, write_model
from edgefd.runs.prepare import PreparedRun
from edgefd.runs.record import model_weights


@dataclass(frozen=True)
class KeptModels:
    """The models that a run keeps."""

    folder: Path
    """the run folder"""
    config: Config
    origin: ModelInfo
    """what all models have in common; model, heads, client and round are those of client 0"""

    def keeps(self, plan: RoundPlan) -> bool:
        """Return whether the models that a round evaluates are written; with keep=best, only the best ones stay."""
        return plan.closing or (plan.evaluate and self.config.run.keep != "last")

    def write(self, client: int, round: int, learner: Learner) -> None:
        """Write the model of a client."""
        choice, path = self.config.model_of(client), model_path(self.folder, round, client)
        info = replace(self.origin, model=choice.name, heads=choice.heads, client=client, round=round)
        write_model(path, model_weights(learner), info)

    def end_round(self, learners: list[Learner], result: RoundResult) -> None:
        """Write the models of clients that were not in the round, and remove models that are not kept."""
        if not self.keeps(result.plan):
            return
        round, best = result.plan.round, result.progress.best
        for client, learner in enumerate(learners):
            if not model_path(self.folder, round, client).exists():
                self.write(client, round, learner)
        if self.config.run.keep == "best":
            kept = round if best is None else best.round
            for other in kept_rounds(self.folder):
                if other != kept:
                    shutil.rmtree(model_path(self.folder, other, 0).parent)


def models_of(prepared: PreparedRun, folder: Path) -> KeptModels:
    """Return the models that a prepared run keeps in its folder; run.keep is not none."""
    config, federation, dataset = prepared.config, prepared.federation, prepared.dataset
    extractor = extractor_of(config)
    raw = (dataset if extractor is None else load_raw(config)).x_train
    expected = InputFormat(
        sample_shape=raw.shape[1:],
        shape=federation.proxy.x.shape[1:],
        units=units_of(raw, federation.proxy.x),
        scale=(tuple(federation.scale.mean), tuple(federation.scale.std)),
        n_classes=federation.n_classes,
    )
    origin = ModelInfo(
        model=config.model[0].name,
        heads=config.model[0].heads,
        input=expected,
        channels_last=config.data.channels_last,
        image_size=config.data.size,
        channels=config.data.channels,
        label_names=dataset.label_names,
        columns=dataset.columns,
        extractor=config.data.extractor,
        extractor_size=config.data.extractor_size,
        extractor_sha256=None if extractor is None else hashlib.sha256(extractor[0]).hexdigest(),
        method=config.method_name,
        dataset=dataset.name,
        seed=config.seed,
        client=0,
        round=0,
    )
    return KeptModels(folder, config, origin)
