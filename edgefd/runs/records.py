"""Contents of summary.json and partition.json of a run folder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClientRecord:
    """The samples of one client."""

    client: int
    """number of the client, from 0"""
    samples_by_class: list[int]
    """samples of each class that the partition gave to the client, including contributed and held-out ones"""
    train: int
    """number of samples that the client trains on"""
    heldout: int
    """number of samples that the client never trains on"""
    contributed: int
    """number of the client's samples in the proxy set"""
    proxy_shift: float | None = None
    """shift of the proxy set from the client's data (`edgefd.filters.shift`): 0.5 = the same kind of samples, 1 =
    another kind; None with fewer than 10 held-out samples"""
    name: str | None = None
    """name of the group, such as a person, whose samples the client has; None if a client is no group"""
    train_rows: list[int] | None = None
    """rows of the training set that the client trains on; only with run.record_knowledge"""
    heldout_rows: list[int] | None = None
    """rows of the training set that the client holds out; only with run.record_knowledge"""
    contributed_ids: list[int] | None = None
    """ids of the proxy rows that the client contributed; only with run.record_knowledge"""


@dataclass(frozen=True)
class Partition:
    """The clients of a run and its proxy set: the content of partition.json."""

    clients: list[ClientRecord] | None
    """one entry for each client; None for a run of devices, whose coordinator does not know their data"""
    proxy: int
    """number of samples in the proxy set"""
    proxy_sha256: str
    """SHA-256 of the samples of the proxy set, as clients receive them"""
    test: int | None
    """number of samples on which accuracies are measured: those of the test set, or of the validation part; None for a
    run of devices"""
    label_names: list[str] | None = None
    """label in the source of the data of each class 0, 1, ...; None if the labels are these numbers themselves, and
    for a run of devices"""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Results of a run: the content of summary.json.

    Accuracies are those of the final round, except `accuracy_best`. None means not measured, as on real devices.
    """

    method: str
    """name of the method"""
    dataset: str
    """name of the data set"""
    scenario: str
    """name of the partition"""
    seed: int
    """seed of the run"""
    rounds: int
    """number of completed rounds, without the closing one"""
    complete: bool
    """whether the run reached its closing round; false for a run that was stopped"""
    n_clients: int
    """number of clients"""
    stopped_early: str | None = None
    """sentence about the patience that ended the run before the last round of train.rounds; None if it did not"""
    evaluated_on: str = "test"
    """samples on which the accuracies were measured: test, or validation, the part of the training set that no client
    trains on; where another field says test set, it means these samples"""
    accuracy_mean: float | None = None
    """mean over clients of the accuracy of their models on the whole test set"""
    accuracy_worst: float | None = None
    """lowest accuracy of a client"""
    accuracy_per_client: list[float | None] | None = None
    """accuracy of each client; None for a client whose report was not used"""
    accuracy_best: float | None = None
    """highest `accuracy_mean` of a measured round. It is chosen on the test set and therefore too high: compare it only
    with published figures that are chosen in the same way, never with `accuracy_mean`"""
    accuracy_best_round: int | None = None
    """number of the first round with that accuracy, which is the number of exchanges before its measurement"""
    training_loss: float | None = None
    """mean over clients of their training loss in the last round: on the batches of private data, or in the
    distillation if there are none"""
    training_warning: str | None = None
    """sentence about clients that have hardly trained, whose accuracies therefore say nothing; None if they have"""
    heldout_accuracy_mean: float | None = None
    """mean accuracy of the clients' models, each on its own held-out data"""
    bytes_up: int
    """bytes of serialised knowledge that all clients sent, in all rounds"""
    bytes_down: int
    """bytes of serialised teachers that all clients received, in all rounds"""
    bytes_once: int | None
    """bytes sent before round 0. In a simulation: contributed raw samples up, and to every client the proxy set as a
    bundle packs it, without the other files of a bundle. In a run of devices: the whole bundle of every client, without
    contributions, and also if a cache or a web server delivers it"""
    codec: str | None = None
    """name of the codec of the messages, also if `codec.name` is auto; None if the method sends none"""
    seconds_total: float
    """duration of the run"""
    seconds_per_round: float
    """mean duration of a round"""
    virtual_seconds: float | None = None
    """duration of the run on the virtual clock of a simulation with `devices`; None without one"""
    joules: float | None = None
    """energy of all devices in the run; None without a virtual clock"""
    kept_fraction: float
    """accepted fraction of the last round with reports: mean over clients of the fraction of proxy rows that a client
    sent soft labels for"""
    wrong_claims: float | None = None
    """out-of-class fraction of the last round with reports: fraction of the sent soft labels whose row is of a class
    that the client does not have"""
    teacher_coverage: float
    """fraction of the proxy rows that have a label of the last teacher"""
    teacher_accuracy: float | None = None
    """accuracy of the last teacher on its proxy rows"""
    teacher_ece: float | None = None
    """expected calibration error of the last teacher on its proxy rows"""
    ece_mean: float | None = None
    """mean over clients of their expected calibration error on the test set"""
    agreement_mean: float | None = None
    """mean over clients of the fraction of the teacher's rows for which model and teacher predict the same class"""
    personal_accuracy_mean: float | None = None
    """mean over clients of the personal accuracy: on the test set reweighted by the client's class shares, or, with
    partition.name=by_group, on the client's held-out data"""
    bam_mean: float | None = None
    """mean over clients of the geometric mean of personal accuracy and accuracy on the whole test set"""
    macro_f1_mean: float | None = None
    """mean over clients of the macro F1 on the test set"""
    recall_by_class: list[float | None] | None = None
    """mean over clients of the recall of each class; None for a class without test rows"""
    accuracy_quantiles: list[float] | None = None
    """10 %, 50 % and 90 % quantile over clients of the accuracy on the whole test set"""
    personal_accuracy_quantiles: list[float] | None = None
    """10 %, 50 % and 90 % quantile over clients of the personal accuracy"""
    proxy_labels_used: bool
    """whether the method uses labels of proxy samples: such a result is not comparable with one that uses none"""
    raw_samples_disclosed: int
    """number of raw private samples that clients have shared with others"""
    epsilon_claimed: float | None = None
    """epsilon of the guaranteed differential privacy of the defence; None without a guarantee"""
    delta_claimed: float | None = None
    """delta of the guaranteed differential privacy of the defence; None without a guarantee"""
    noise_seed: int | None = None
    """known seed of the noise of the defence (`defence.seed`, for tests), with which nothing is guaranteed; None if the
    noise comes from the entropy of the operating system, or there is none"""
    data_source: str | None
    """origin of the data set, such as the path of its file; None for a run of devices"""
    data_samples: int | None
    """number of samples of the data set, training and test; None for a run of devices"""
    data_sha256: str | None
    """SHA-256 of the arrays of the data set; None for a run of devices"""
    proxy_source: str | None = None
    """origin of the proxy set if it is another data set (`proxy.data`), and how its samples were converted; otherwise
    None, also for a run of devices"""
    proxy_source_sha256: str | None = None
    """SHA-256 of the arrays of that data set"""


def data_label(dataset: str, evaluated_on: str) -> str:
    """Return the name under which tables show results, so that none mixes those of the test set with others.

    >>> data_label("mnist", "test"), data_label("mnist", "validation")
    ('mnist', 'mnist (validation part)')
    """
    return dataset if evaluated_on == "test" else f"{dataset} ({evaluated_on} part)"
