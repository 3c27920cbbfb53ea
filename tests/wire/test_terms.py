"""Terms on the wire and as JSON: every rule, loss and training setting arrives, and equal terms compare as equal."""

import dataclasses
import json
from typing import Any

import pytest
from edgefd_proto import edgefd_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.errors import RunError
from edgefd.federation.terms import FederationInfo, FederationTerms, parse_terms
from edgefd.federation.training import Training
from edgefd.learners.losses import loss_of, losses
from edgefd.selection import selection_of, selection_rules
from edgefd.wire.device_link import identity_message, read_identity, read_terms, terms_message
from edgefd.wire.exchange_folder import decode_info, encode_info

SHARES = st.floats(0.01, 0.99)
TEXT = st.text(st.characters(codec="utf-8"), max_size=9)
SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    "budget": st.one_of(SHARES, st.integers(2, 2**31)),
    "parts": st.integers(2, 2**31),
    "assumed_teacher_error": SHARES,
    "uniform_share": st.floats(0, 1),
    "temperature": st.floats(0.01, 100).filter(lambda t: t != 1),
    "label_share": SHARES,
    "start": st.floats(0, 1),
}
"""values of the settings that rules and losses have"""


def settings(kind: type, key: str, name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Return random settings of a rule or loss. A setting that is not in `SETTINGS` is an error here: add it."""
    names = {f.name for f in dataclasses.fields(kind)} - {key}
    return st.fixed_dictionaries({key: st.just(name)} | {n: SETTINGS[n] for n in sorted(names)})


@st.composite
def trainings(draw: st.DrawFn) -> Training:
    count, rate = st.integers(0, 50), st.floats(0, 10)
    return Training(
        rounds=draw(st.integers(1, 100)),
        **{draw(st.sampled_from(["local_steps", "local_epochs"])): draw(count)},
        warmup_steps=draw(count),
        local_batch_size=draw(st.none() | st.integers(1, 99)),
        distill_epochs=draw(count),
        closing_epochs=draw(count),
        catch_up=draw(st.integers(1, 9)),
        batch_size=draw(st.integers(20, 99)),
        private_rows_per_batch=draw(st.integers(0, 19)),
        augment_shift=draw(count),
        optimizer=draw(st.sampled_from(["sgd", "adam"])),
        lr=draw(st.floats(1e-6, 10)),
        schedule=draw(st.sampled_from(["cosine", "constant", "step"])),
        final_lr=draw(rate),
        step_rounds=draw(st.integers(1, 50)),
        step_factor=draw(st.floats(0.01, 1)),
        initial=draw(st.sampled_from(["shared", "own"])),
    )


@st.composite
def terms(draw: st.DrawFn, selection: str, loss: str) -> FederationTerms:
    values = st.one_of(st.booleans(), st.integers(-9, 9), st.floats(-9, 9), TEXT)
    return FederationTerms(
        method=draw(TEXT),
        method_config=draw(st.dictionaries(TEXT, values, max_size=3)),
        codec=draw(st.sampled_from(["float16", "uint8"])),
        seed=draw(st.integers(0, 2**64 - 1)),
        n_classes=draw(st.integers(1, 1000)),
        proxy_sha256="ab" * 32,
        defence=draw(st.sampled_from([{"name": "none"}, {"name": "top_k", "k": 2, "calibrate": True}])),
        training=draw(trainings()),
        selection=selection_of(draw(settings(selection_rules()[selection], "name", selection))),
        distillation=loss_of(draw(settings(losses()[loss], "loss", loss))),
    )


def shuffled(value: Any) -> Any:
    """Return plain values as another program may write them: keys in another order, 3 for 3.0."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in sorted(value, reverse=True)}
    return int(value) if isinstance(value, float) and value == int(value) else value


@pytest.mark.parametrize(
    ("selection", "loss"),
    [*((rule, "kl") for rule in selection_rules()), *(("all", loss) for loss in losses())],
)
@given(data=st.data())
def test_terms_arrive_as_they_were_sent(selection: str, loss: str, data: st.DataObject) -> None:
    sent = data.draw(terms(selection, loss))
    over_grpc = read_terms(pb.Terms.FromString(terms_message(sent).SerializeToString()))
    over_folder = decode_info(encode_info(FederationInfo("r", 3, sent))).terms
    elsewhere = parse_terms(json.loads(json.dumps(shuffled(sent.to_dict()))))
    for received in (over_grpc, over_folder, elsewhere, parse_terms(sent.to_dict())):
        assert received == sent
        assert sent.differences(received) == received.differences(sent) == []
        assert (type(received.selection), type(received.distillation)) == (
            type(sent.selection),
            type(sent.distillation),
        )


def test_numbers_without_a_point_and_another_order_of_keys_change_nothing() -> None:
    base = FederationTerms("edgefd", {"quantile": 3.0, "n_clusters": 4}, "float16", 7, 10, "ab")
    base = dataclasses.replace(base, training=Training(lr=3.0, final_lr=1.0), selection=selection_of(RANDOM))
    message = terms_message(base)
    for name, text in {
        "method_config": '{"n_clusters": 4, "quantile": 3}',
        "training": '{"final_lr": 1, "lr": 3}',
        "selection": '{"budget": 9, "name": "random"}',
    }.items():
        setattr(message, name, text)
    assert read_terms(message) == base
    assert base.differences(read_terms(message)) == []


RANDOM = {"name": "random", "budget": 9.0}


def test_the_coordinator_decides_on_training_selection_and_loss() -> None:
    base = FederationTerms("edgefd", {}, "float16", 7, 10, "ab")
    other = dataclasses.replace(
        base, training=Training(lr=1), selection=selection_of(RANDOM), distillation=loss_of({"loss": "pld"})
    )
    assert base != other
    assert base.differences(other) == []
    for name, value in {"method": "fedmd", "method_config": {"a": 1}, "codec": "uint8", "seed": 8}.items():
        assert base.differences(dataclasses.replace(other, **{name: value})) == [name]
    sent = identity_message(other)
    assert (sent.training, sent.selection, sent.distillation) == ("", "", "")
    assert other.differences(read_identity(sent)) == []
    sent.training = '{"rounds": 0}'
    assert other.differences(read_identity(sent)) == []


def test_settings_that_are_left_out_have_their_defaults_but_training_has_none() -> None:
    message = pb.Terms(method="fedmd", n_classes=2)
    assert read_identity(message) == FederationTerms("fedmd", {}, "", 0, 2, "")
    with pytest.raises(ValueError, match="the terms have no training: they are from another version of edgefd"):
        read_terms(message)
    message.training, message.codec = "{}", "uint8"
    assert read_terms(message) == FederationTerms("fedmd", {}, "uint8", 0, 2, "")


def test_a_folder_of_another_version_is_refused_in_one_line() -> None:
    info = json.loads(encode_info(FederationInfo("r", 3, FederationTerms("edgefd", {}, "float16", 7, 10, "ab"))))
    del info["terms"]["training"], info["terms"]["selection"]
    with pytest.raises(RunError, match="the terms have no training, selection: they are from another version"):
        decode_info(json.dumps(info).encode())


@pytest.mark.parametrize("text", ["[" * 100_000, '{"run": "r", "n_clients": Infinity, "terms": {}}'])
def test_a_folder_with_impossible_values_is_refused(text: str) -> None:
    with pytest.raises(RunError, match="does not describe a federation"):
        decode_info(text.encode())


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (pb.Terms(training='{"optimizer": "lion"}'), "training: optimizer cannot be 'lion'"),
        (pb.Terms(training='{"rounds": 0}'), "rounds must be at least 1"),
        (pb.Terms(training='{"rounds": 3.5}'), "rounds cannot be 3.5"),
        (pb.Terms(training='{"lr": NaN}'), "it holds NaN, which is not a number of JSON"),
        (pb.Terms(training='{"lr": Infinity}'), "it holds Infinity"),
        (pb.Terms(training='{"lr": %s}' % ("9" * 400)), "lr cannot be 999"),
        (pb.Terms(training='{"lr": true}'), "lr cannot be True"),
        (pb.Terms(training='{"wheel": 1}'), "training has no setting 'wheel'"),
        (pb.Terms(training='{"private_rows_per_batch": 64}'), "private_rows_per_batch must be"),
        (pb.Terms(selection='{"name": "luck"}'), "unknown selection 'luck'"),
        (pb.Terms(selection='{"name": ["kd3"]}'), "terms: TypeError"),
        (pb.Terms(selection='{"name": "kd3", "budget": NaN}'), "it holds NaN, which is not a number of JSON"),
        (pb.Terms(selection='{"name": "kd3", "budget": 0}'), "budget must be a share"),
        (pb.Terms(selection='{"name": "all", "budget": 0.5}'), "selection all has no setting 'budget'"),
        (pb.Terms(distillation='{"loss": "mse"}'), "unknown loss 'mse'"),
        (pb.Terms(distillation='{"loss": "kl", "temperature": 0}'), "temperature must be above 0"),
        (pb.Terms(distillation="{}"), "unknown loss None"),
        *(
            (pb.Terms(**{name: text}), f"terms: {name} is not")
            for name in ("method_config", "defence", "training", "selection", "distillation")
            for text in ("[]", "3", "{", "[" * 100_000)
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(message: pb.Terms, error: str) -> None:
    message.training = message.training or "{}"
    with pytest.raises(ValueError, match=error):
        read_terms(message)


@pytest.mark.parametrize("fields", [{"codec": "zip"}, {"codec": ""}, {"n_classes": 0}, {"n_classes": 2**31}], ids=str)
def test_terms_that_no_receiver_can_use_are_refused(fields: dict[str, Any]) -> None:
    terms = dataclasses.replace(FederationTerms("fedmd", {}, "uint8", 0, 2, ""), **fields)
    with pytest.raises(ValueError, match=r"codec|n_classes"):
        read_terms(terms_message(terms))
    with pytest.raises(RunError, match=r"codec|n_classes"):
        decode_info(encode_info(FederationInfo("r", 2, terms)))
