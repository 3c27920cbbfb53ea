"""The files of a run folder, and the classes that describe the content of the JSON files."""

from __future__ import annotations

from dataclasses import dataclass

from edgefd.data.model_input import InputFormat
from edgefd.runs.calibration import Reliability
from edgefd.runs.environment import Environment
from edgefd.runs.model_files import ModelInfo
from edgefd.runs.records import ClientRecord, Partition, Summary
from edgefd.runs.round_metrics import Evaluation, RoundMetrics


@dataclass(frozen=True)
class RunFile:
    """A file or folder of a run folder."""

    name: str
    """name in the run folder; a folder ends with /"""
    written: str
    """when or by what it is written"""
    content: str
    """what it holds"""
    kinds: tuple[type, ...] = ()
    """dataclasses of a JSON file: that of the file (of a line, for .jsonl), then those that it contains"""


RUN_FILES = (
    RunFile("config.yaml", "at the start", "the config with every default"),
    RunFile("env.json", "at the start", "software and hardware of the run", (Environment,)),
    RunFile("partition.json", "at the start", "clients and proxy set", (Partition, ClientRecord)),
    RunFile("metrics.jsonl", "after each round", "one line of metrics for each round", (RoundMetrics,)),
    RunFile("evaluation.json", "after the closing round", "details of the final models", (Evaluation, Reliability)),
    RunFile("summary.json", "at the end, or when the run is stopped", "results of the run", (Summary,)),
    RunFile("also/METHOD/", "by `edgefd simulate`", "the run folder of each method of `baselines`"),
    RunFile("metrics.csv", "after each round, with the tracker csv", "one row of numbers for each round"),
    RunFile("tensorboard/, wandb/", "by the trackers of these names", "files of TensorBoard and of Weights & Biases"),
    RunFile("knowledge/", "with run.record_knowledge", "the messages that each party received, for `edgefd audit`"),
    RunFile(
        "models/",
        "as run.keep says",
        "round-0030/client-003.safetensors and so on; the metadata `edgefd` of a file is the JSON below",
        (ModelInfo, InputFormat),
    ),
    RunFile("checkpoint.bin", "after rounds", "the state for `--resume`: settings, metrics, and the server's state"),
    RunFile("checkpoint/", "by `edgefd simulate`", "the states of the clients; removed when the run is complete"),
    RunFile("link.jsonl", "by a coordinator of devices", "events, such as reports and refusals, and teachers' digests"),
    RunFile("link.jsonl.1", "from 16 MiB on", "older events; link.jsonl.2 and link.jsonl.3 are older still"),
    RunFile("flower/", "by `edgefd serve flower`", "the SuperLink's database and log, and other files of Flower"),
    RunFile("report.html", "by `edgefd report`", "plots and tables of the run"),
    RunFile("audit/", "by `edgefd audit`", "audit.json, audit.html, scores.npz, and signals of the attacks for reuse"),
)
"""everything that edgefd writes into a run folder, except hidden files"""
