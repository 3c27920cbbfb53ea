"""Profiles of devices, and which client has which."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.errors import UserError
from edgefd.federation.device_profile import SHIPPED, read_profiles
from edgefd.federation.devices import Devices, counts, fleet_of


def test_the_shipped_profiles_say_how_fast_they_train_and_name_sources() -> None:
    profiles = read_profiles()
    assert set(profiles) == {"pi_zero_2_w", "pi_4", "pi_5", "jetson_nano", "phone"}
    for profile in profiles.values():
        assert profile.flops
        assert profile.filter_row_seconds
        assert profile.training_watts
        assert profile.radio_watts
    text = SHIPPED.read_text(encoding="utf-8")
    assert text.count("#") > 20


def test_a_file_adds_profiles_and_replaces_others(tmp_path: Path) -> None:
    path = tmp_path / "boards.yaml"
    path.write_text("mine: {step_seconds: {cnn: 0.5}}\npi_4: {flops: 1e9}\n")
    profiles = read_profiles([path])
    assert (profiles["mine"].step_seconds, profiles["pi_4"].flops) == ({"cnn": 0.5}, 1e9)
    devices = Devices({"mine": 1}, (str(path),))
    assert fleet_of(devices, 0, 2) == [profiles["mine"]] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must hold one section for each profile"),
        ("mine: 3", "must hold one section for each profile"),
        ("mine: {speed: 3}", "profile mine in .* has no setting 'speed'"),
        ("mine: {step_seconds: {cnn: fast}}", "step_seconds cannot be"),
        ("mine: {step_seconds: {cnn: 0}}", "the values of step_seconds must be above 0"),
        ("mine: {down_mbit: 0}", "down_mbit must be above 0"),
        ("mine: {availability: 0}", "availability must be in"),
        ("mine: {failure: 1}", "failure must be at least 0 and below 1"),
        ("mine: {latency_seconds: -1}", "latency_seconds must not be negative"),
        ("mine: {flops: .inf}", "flops cannot be inf"),
    ],
)
def test_a_wrong_profile_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "boards.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_profiles([path])
    assert "\n" not in str(error.value)


def test_an_unknown_profile_is_refused_with_a_hint() -> None:
    with pytest.raises(UserError, match=r"unknown profile 'pi_44': .*pi_4"):
        fleet_of(Devices({"pi_44": 1}), 0, 3)


@given(st.dictionaries(st.text("abc", min_size=1), st.floats(0.1, 100), min_size=1, max_size=5), st.integers(1, 200))
def test_every_client_gets_a_device_and_shares_are_kept(fleet: dict[str, float], n_clients: int) -> None:
    dealt = counts(fleet, n_clients)
    assert sum(dealt.values()) == n_clients
    assert all(abs(dealt[name] - n_clients * fleet[name] / sum(fleet.values())) <= 1 for name in fleet)


def test_whole_numbers_that_add_up_to_the_clients_are_counts_and_the_seed_decides() -> None:
    assert counts({"pi_4": 7, "pi_5": 3}, 10) == {"pi_4": 7, "pi_5": 3}
    fleet = Devices({"pi_4": 7, "pi_5": 3})
    first, second, same = (fleet_of(fleet, seed, 10) for seed in (0, 1, 0))
    assert first == same != second
