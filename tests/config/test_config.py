"""Configs: parsing, overrides, defaults, and one line for each mistake."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from edgefd.config.load import baseline_config, load_config, parse_config
from edgefd.config.schema import Model, RunSettings
from edgefd.core.errors import UserError
from edgefd.federation.method import MessageKind
from edgefd.learners.losses.kl import Kl
from edgefd.methods import get_method, method_names
from edgefd.runs.environment import environment

FOLDER = Path(__file__).parents[2] / "simulations"
SIMULATIONS = sorted([*FOLDER.glob("*.yaml"), *FOLDER.glob("edge/*.yaml")])


@pytest.mark.parametrize("path", SIMULATIONS, ids=lambda p: p.name)
def test_shipped_configs_parse_and_document_their_command(path: Path) -> None:
    if "\nbase:\n" not in path.read_text():  # the others are sweeps
        load_config(path)
    head = path.read_text().splitlines()[:13]
    for word in ("# What:", "# Run:", "# Needs:", "# Takes:", "# Expect:"):
        assert any(line.startswith(word) for line in head), word


@pytest.mark.parametrize("method", method_names())
def test_the_resolved_config_parses_to_itself(method: str) -> None:
    data = {"name": "watch", "test_people": [1, 2]}
    models = [{"name": "cnn"}, {"name": "mlp"}]
    if get_method(method).message is MessageKind.PARAMETERS:  # averaged: all clients have the same model
        models = models[:1]
    config = parse_config({"data": data, "method": {"name": method}, "baselines": ["fedmd"], "model": models})
    assert parse_config(config.to_dict()) == config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trian.rounds=3"], "trian: unknown key, did you mean 'train'?"),
        (["method.n_cluster=3"], "method.n_cluster: unknown key, did you mean 'n_clusters'?"),
        (["train.lr=fast"], "train.lr: Input should be a valid number"),
        (["train.rounds=0"], "train: rounds must be at least 1"),
        (["train.private_rows_per_batch=64"], "private_rows_per_batch must be at least 0 and less than batch_size"),
        (["train.optimizer=lion"], "train.optimizer: Input should be 'sgd' or 'adam' (got 'lion')"),
        (["method.name=edgfd"], "unknown method 'edgfd': did you mean 'edgefd'?"),
        (["method.name=no_such.module:METHOD"], "cannot load method"),
        (["method.name=edgefd.federation.method:mean"], "not an edgefd.federation.method.Method"),
        (["method.quantile=1.5"], "quantile must be in (0, 1]"),
        (["method.reference=both"], "method.reference: Input should be 'proxy' or 'none'"),
        (["baselines=[fedmb]"], "unknown method 'fedmb': did you mean 'fedmd'?"),
        (["baselines=fedmd"], "baselines must be a list"),
        (["baselines=[fedmd, fedmd]"], "baselines names a method twice"),
        (["proxy.alpha=0"], "must be in (0, 1), not 0"),
        (["proxy.alpha=1"], "must be in (0, 1), not 1"),
        (
            ["proxy.source=contributed", "proxy.path=x.npz", "proxy.keep=true"],
            "proxy.keep cannot be combined with proxy.path: devices choose it",
        ),
        (["partition.name=strongg"], "unknown partition 'strongg': did you mean 'strong'?"),
        (["partition.name=dirichlet", "partition.alpha=0"], "partition.alpha must be above 0"),
        (["partition.n_clients=0"], "n_clients must be at least 1"),
        (["partition.name=file"], "partition.path: "),
        (["partition.name=file", "partition.path=p.json", "proxy.source=public"], "rows of the whole training set"),
        (["codec.name=float8"], "unknown codec 'float8': did you mean 'float"),
        (["selection.name=randm", "selection.budget=0.5"], "unknown selection 'randm': did you mean 'random'?"),
        (["selection.name=random"], "random needs a budget below 1"),
        (["selection.budget=0.5"], "selection.budget is for name=adaspec or ddk or kd3"),
        (["selection.name=rad", "selection.budget=0"], "budget must be a share in (0, 1] or a whole number"),
        (["selection.name=rad", "selection.budget=2.5"], "budget must be a share in (0, 1] or a whole number"),
        (
            ["selection.name=rad", "selection.budget=0.5", "selection.assumed_teacher_error=1"],
            "assumed_teacher_error must be at least 0 and below 1",
        ),
        (
            ["selection.name=kd3", "selection.budget=0.5", "selection.assumed_teacher_error=0.2"],
            "assumed_teacher_error is for name=rad",
        ),
        (
            ["selection.name=ddk", "selection.budget=0.5", "selection.uniform_share=2"],
            "uniform_share must be in [0, 1]",
        ),
        (["selection.name=rad", "selection.budget=0.5", "selection.uniform_share=1"], "uniform_share is for name=ddk"),
        (["selection.nme=rad"], "selection.nme: unknown key, did you mean 'name'?"),
        (["selection.name=random", "selection.budget=0.5", "method.name=comet"], "cannot choose rows for method comet"),
        (["selection.name=random", "selection.budget=0.5", "method.name=scarlet"], "rows for method scarlet"),
        (["selection.name=kd3", "selection.budget=0.5", "baselines=[fkd]"], "method fkd learns something else"),
        (["distillation.loss=pld", "method.name=indlearn"], "method indlearn learns something else"),
        (["distillation.loss=plx"], "unknown loss 'plx': did you mean 'pld'?"),
        (["distillation.temperature=0"], "temperature must be above 0"),
        (
            ["distillation.loss=pld", "distillation.temperature=2"],
            "temperature is for loss=kl or swing, not pld",
        ),
        (["distillation.loss=swing"], "swing needs a temperature other than 1"),
        (["distillation.loss=mixed", "distillation.label_share=0"], "label_share must be in (0, 1]"),
        (["distillation.loss=taid", "distillation.start=-1"], "start must be in [0, 1]"),
        (["distillation.start=0.1"], "start is for loss=taid"),
        (["distillation.loss=mixed", "proxy.source=public"], "clients know no labels of a public proxy set"),
        (["data=mnist"], "data must be a section"),
        (["data.heldout=1"], "data.heldout must be in (0, 1)"),
        (["data.test_people=[9, 8]"], "ascending order, each once, not [9, 8]"),
        (["data.test_people=[]"], "ascending order"),
        (["data.test_people=nine"], "data.test_people"),
        (["data.limit=0"], "data.limit must be at least 1"),
        (["model=[]"], "model must be a name, a section"),
        (["run.workers=-1"], "run.workers must be auto, 0 or more"),
        (["run.workers=many"], "run.workers"),
        (["run.evaluate_every=0"], "evaluate_every must be at least 1"),
        (["seed=-1"], "seed must be at least 0 and below 2**64, not -1"),
        (["seed=18446744073709551616"], "below 2**64, not 18446744073709551616"),
        (["seed=2024-01-01"], "seed=2024-01-01': the value is not valid YAML: 2024-01-01 has more than one meaning"),
        (["baselines=[2024-01-01]"], 'write "2024-01-01"'),
        (["seed=010"], "write 10 for a number"),
        (["seed=true"], "seed: Input should be a valid integer (got True)"),
        (["seed='5'"], "seed: Input should be a valid integer (got '5')"),
        (["train.rounds=2.0"], "train.rounds: Input should be a valid integer (got 2.0)"),
        (["run.record_knowledge='yes'"], "run.record_knowledge: Input should be a valid boolean (got 'yes')"),
        (["method={1: 2}"], "method: the key 1 must be text"),
        (["train.lr=.nan"], "train.lr: must be a finite number (got nan)"),
        (["train.lr=inf"], "train.lr: Input should be a valid number (got 'inf')"),
        (["train.final_lr=-.inf"], "final_lr"),
        (["method.beta=.nan"], "method.beta: must be a finite number"),
        (["partition.name=dirichlet", "partition.alpha=.inf"], "partition.alpha: must be a finite number"),
        (["proxy.alpha=.nan"], "proxy.alpha: must be a finite number"),
        (["seed=one"], "seed: "),
        (["rounds"], "must look like section.key=value"),
        (["train.lr=[1"], "not valid YAML"),
        (["seed.x=1"], "seed.x: seed is not a section"),
        (['data={name: "\\uD800.npz"}'], "data.name: '\\ud800.npz' is not valid Unicode"),
    ],
)
def test_invalid_settings_are_named_in_one_line(overrides: list[str], message: str) -> None:
    quickstart = Path(__file__).parents[2] / "simulations" / "quickstart.yaml"
    with pytest.raises(UserError) as caught:
        load_config(quickstart, overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        (":X", "", "method ':X' must look like package.module:ATTRIBUTE"),
        ("pkg:", "", "method 'pkg:' must look like package.module:ATTRIBUTE"),
        (".foreign0:METHOD", "", "cannot load method '.foreign0:METHOD': TypeError"),
        ("foreign1:METHOD", "def (:", "cannot load method 'foreign1:METHOD': SyntaxError: "),
        ("foreign2:METHOD", "1 / 0", "cannot load method 'foreign2:METHOD': ZeroDivisionError: division by zero"),
        ("foreign3:METHOD", "raise SystemExit('a\\nb')", "cannot load method 'foreign3:METHOD': SystemExit: a b"),
        (
            "foreign4:METHOD",
            "from edgefd.federation.method import Method; METHOD = Method('m', 's', int)",
            "must be a dataclass",
        ),
    ],
)
def test_a_user_method_that_cannot_be_loaded_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, code: str, message: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{path.partition(':')[0].strip('.') or 'none'}.py").write_text(code)
    with pytest.raises(UserError) as caught:
        parse_config({"method": {"name": path}})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_workers_are_counted_without_sched_getaffinity_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RunSettings().n_workers == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert RunSettings().n_workers == environment().cores == os.cpu_count()


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n- b", "must hold sections"), ("a: [", "not valid YAML"), ("\xff", "save it as UTF-8")],
)
def test_unreadable_config_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        load_config(path)
    with pytest.raises(UserError, match=r"cannot read .*missing\.yaml"):
        load_config(tmp_path / "missing.yaml")


def test_another_name_removes_only_the_settings_it_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "data: {limit: 600}\npartition: {name: dirichlet, n_clients: 5, alpha: 0.3}\nmethod: {quantile: 0.5}"
    )
    config = load_config(path, ["data.name=digits", "partition.name=shards", "method.name=edgefd", "model.name=mlp"])
    assert (config.data.name, config.data.limit) == ("digits", 600)
    assert (config.partition.name, config.partition.n_clients) == ("shards", 5)  # type: ignore[union-attr]
    assert config.method_config.quantile == 0.5


@pytest.mark.parametrize(
    ("sections", "overrides", "selection", "distillation"),
    [
        (
            "selection: {name: rad, budget: 0.5, assumed_teacher_error: 0.2}\ndistillation: {loss: kl, temperature: 3}",
            ["selection.name=ddk", "distillation.loss=swing"],
            {"name": "ddk", "budget": 0.5, "uniform_share": 0.5},
            {"loss": "swing", "temperature": 3},
        ),
        (
            "selection: {name: ddk, budget: 9, uniform_share: 0.1}\ndistillation: {loss: taid, start: 0.1}",
            ["distillation.temperature=2", "selection.name=all", "distillation.loss=kl"],
            {"name": "all"},
            {"loss": "kl", "temperature": 2},
        ),
        (
            "selection: {budget: 0.25, name: random}\ndistillation: {temperature: 2}",
            ["selection.uniform_share=0.3", "selection.name=ddk", "distillation.loss=pld"],
            {"name": "ddk", "budget": 0.25, "uniform_share": 0.3},
            {"loss": "pld"},
        ),
    ],
)
def test_another_rule_or_loss_keeps_the_settings_that_it_also_has(
    tmp_path: Path, sections: str, overrides: list[str], selection: dict[str, Any], distillation: dict[str, Any]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(sections)
    config = load_config(path, overrides)
    assert dataclasses.asdict(config.selection) == selection
    assert dataclasses.asdict(config.distillation) == distillation
    assert parse_config(config.to_dict()) == config


def test_a_method_override_resets_its_settings_to_defaults(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("method: {name: edgefd, quantile: 0.5}\npartition: {name: dirichlet, alpha: 0.3}")
    config = load_config(path, ["partition.n_clients=7", "method.name=fedmd", "partition.name=iid"])
    assert config.method_config == get_method("fedmd").config()
    assert config.partition.name == "iid"
    assert config.partition.n_clients == 7  # type: ignore[union-attr]
    same = load_config(path, ["method.name=edgefd"])
    assert same.method_config.quantile == 0.5


def test_a_key_of_an_empty_section_can_be_set() -> None:
    assert load_config({"train": None}, {"train.rounds": 3}).train.rounds == 3


def test_a_config_with_tuples_in_the_settings_of_its_method_is_read_again() -> None:
    @dataclasses.dataclass(frozen=True)
    class Settings:
        sizes: tuple[int, ...] = (1, 2)

    method = dataclasses.replace(get_method("fedmd"), config=Settings)
    config = load_config({"method": {"name": "object:own"}}, objects={"object:own": method})
    assert load_config(config, {"seed": 1}).method_config == Settings((1, 2))


def test_for_method_uses_the_defaults_of_the_other_method() -> None:
    config = parse_config({"method": {"name": "fedmd"}, "seed": 3, "baselines": ["edgefd"]})
    other = config.for_method("edgefd")
    assert (other.method_name, other.seed, other.baselines) == ("edgefd", 3, ())
    assert other.method_config == get_method("edgefd").config()


def test_a_baseline_can_have_settings_and_sections_of_its_own() -> None:
    own = {"name": "scarlet", "beta": 2, "distillation": {"temperature": 1}}
    config = parse_config({"distillation": {"temperature": 4}, "baselines": ["fedmd", own]})
    assert config.baselines == ("fedmd", "scarlet")
    assert config.to_dict()["baselines"] == ["fedmd", own]
    assert load_config(config).to_dict() == config.to_dict()
    scarlet, fedmd = (baseline_config(config, name) for name in ("scarlet", "fedmd"))
    assert (scarlet.method_name, scarlet.method_config.beta, scarlet.baselines) == ("scarlet", 2.0, ())
    assert (scarlet.distillation, fedmd.distillation) == (Kl(temperature=1), Kl(temperature=4))


@pytest.mark.parametrize(
    ("baseline", "error"),
    [
        ({"name": "scarlet", "betta": 2}, "baseline scarlet: method.betta: unknown key, did you mean 'beta'?"),
        ({"name": "scarlet", "beta": 0}, "baseline scarlet: method: beta must be above 0"),
        ({"name": "fkd", "distillation": {"loss": "pld"}}, "baseline fkd: method fkd learns something else"),
        ({"name": "scarlet", "data": {"name": "fashion_mini"}}, "baseline scarlet: data is the same for all methods"),
        ({"name": "scarlet", "train": {"lrr": 1}}, "baseline scarlet: train.lrr: unknown key, did you mean 'lr'?"),
        ({"name": "scarlet", "seed": 7}, "baseline scarlet: seed is the same for all methods of a run: remove it"),
        ({"name": "scarlet", "protocol": "fedmd"}, "baseline scarlet: protocol is the same for all methods"),
        ({"name": "scarlet", "baselines": ["fedmd"]}, "baseline scarlet: baselines is the same for all methods"),
        ({"beta": 2}, "baselines must be a list of methods, such as [fedmd, {name: scarlet, beta: 2}]"),
    ],
)
def test_a_wrong_setting_of_a_baseline_is_refused_with_its_name(baseline: dict[str, Any], error: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_config({"baselines": [baseline]})
    assert error in str(caught.value)


def test_a_section_of_a_baseline_keeps_the_other_keys_of_the_run() -> None:
    run: dict[str, Any] = {
        "train": {"rounds": 3, "batch_size": 32},
        "model": {"name": "mlp", "learner": "onnx"},
        "proxy": {"source": "public", "alpha": 0.2},
        "selection": {"name": "random", "budget": 0.5},
    }
    own: dict[str, Any] = {
        "name": "fedmd",
        "train": {"lr": 0.01},
        "model": {"name": "linear"},
        "proxy": {"alpha": 0.3},
        "selection": {"name": "kd3", "budget": 9},
    }
    fedmd = baseline_config(parse_config({**run, "baselines": [own]}), "fedmd")
    assert (fedmd.train.rounds, fedmd.train.batch_size, fedmd.train.lr) == (3, 32, 0.01)
    assert fedmd.model == (Model("linear", "onnx"),)
    assert (fedmd.proxy.source, fedmd.proxy.alpha) == ("public", 0.3)
    assert fedmd.selection == parse_config({"selection": own["selection"]}).selection


def test_null_gives_a_section_of_a_baseline_its_defaults() -> None:
    config = parse_config({"distillation": {"temperature": 4}, "baselines": [{"name": "fkd", "distillation": None}]})
    assert baseline_config(config, "fkd").distillation == Kl()


def test_the_keys_of_a_source_survive_a_file_and_are_checked() -> None:
    keys = {"name": "m.parquet", "label": "kind", "features": ["acc_*", "n"], "client": "device", "test": "t.parquet"}
    more = {"image_size": [24, 32], "channels": 3, "channels_last": True, "test_fraction": 0.3, "train": "a"}
    config = parse_config({"data": keys | more})
    assert config.to_dict()["data"].items() >= (keys | more).items()
    assert parse_config(config.to_dict()) == config
    assert (config.data.size, parse_config({"data": {"image_size": 8}}).data.size) == ((24, 32), (8, 8))
    for key, value in (("channels", 2), ("channels_last", "yes"), ("test_fraction", 0.0), ("features", [1])):
        with pytest.raises(UserError, match=rf"^data(\.{key})?\b"):
            parse_config({"data": {key: value}})
