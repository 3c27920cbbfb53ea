"""The section `devices` of a config: the devices of the clients of a simulation, and which client has which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgefd.core.errors import UserError, hint
from edgefd.core.seeding import Purpose, make_rng
from edgefd.federation.device_profile import DeviceProfile, read_profiles


@dataclass(frozen=True)
class Devices:
    """Devices that clients of a simulation have, for times and energy on a virtual clock."""

    fleet: dict[str, float] = field(default_factory=dict)
    """number or share of each kind of device, by the name of its profile, such as {pi_4: 2, pi_zero_2_w: 1}: numbers
    that add up to those of the clients are counts, others are shares (empty = no virtual clock)"""
    profiles: tuple[str, ...] = ()
    """YAML files with more profiles, such as those that `edgefd-client doctor --profile` writes"""

    def __post_init__(self) -> None:
        if any(not share > 0 for share in self.fleet.values()):
            raise ValueError("the numbers of fleet must be above 0")
        if self.profiles and not self.fleet:
            raise ValueError("profiles needs fleet: name the profiles of the clients")


def fleet_of(devices: Devices, seed: int, n_clients: int) -> list[DeviceProfile]:
    """Return the device of each client. Kinds are dealt at random, by the seed; numbers are rounded by largest rest.

    Raises:
        UserError: for a profile that no file holds.
    """
    known = read_profiles(Path(path) for path in devices.profiles)
    for name in devices.fleet:
        if name not in known:
            raise UserError(f"devices.fleet: unknown profile {name!r}: {hint(name, known)}")
    dealt = [known[name] for name, count in counts(devices.fleet, n_clients).items() for _ in range(count)]
    order = make_rng(seed, Purpose.FLEET).permutation(n_clients)
    return [dealt[place] for place in order]


def counts(fleet: Mapping[str, float], n_clients: int) -> dict[str, int]:
    """Return how many clients have each kind of device.

    >>> counts({"pi_4": 2, "phone": 1}, 3), counts({"pi_4": 0.5, "pi_5": 0.25, "phone": 0.25}, 6)
    ({'pi_4': 2, 'phone': 1}, {'pi_4': 3, 'pi_5': 2, 'phone': 1})
    """
    shares = np.array(list(fleet.values()), np.float64)
    exact = n_clients * shares / shares.sum()
    whole = np.floor(exact + 1e-9).astype(int)
    rest = n_clients - int(whole.sum())
    whole[np.argsort(-(exact - whole), kind="stable")[:rest]] += 1
    return dict(zip(fleet, whole.tolist(), strict=True))
