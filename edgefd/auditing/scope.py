"""The scope of an audit: adversaries, attacks by level, and what is never tested."""

from __future__ import annotations

from edgefd.auditing.attacks import centroid_distance, insertion, membership, planted_canaries, shadow_lira

ADVERSARIES = ("server", "client", "holder", "eavesdropper", "observer")
DISCLOSURE = {  # what is disclosed without an attack on a model, and to which adversaries
    "ledger": ("server", "client", "eavesdropper"),
    "labels": ("server", "eavesdropper"),
    "attribution": ("eavesdropper",),
    "singletons": ("client",),
    "centroids": ("holder",),
    "sizes": ("observer",),
}
MEMBERSHIP = (*membership.MODEL_ATTACKS, *membership.FILTER_ATTACKS, *insertion.ATTACKS, centroid_distance.ATTACK)
REPORT_READERS = ("server", "eavesdropper")  # the adversaries that see all reports
REPORT_ATTACKS = ("extraction", "inversion")  # attacks on the reports other than membership inference, at level 2
LEVEL_2 = (*shadow_lira.ATTACKS, *planted_canaries.ATTACKS, *REPORT_ATTACKS)
LEVELS: tuple[tuple[str, ...], ...] = (tuple(DISCLOSURE), MEMBERSHIP, LEVEL_2)
ATTACKS = tuple(name for names in LEVELS for name in names)

NOT_TESTED = (
    "trajectories: membership inference from the soft labels of all rounds together",
    "gradient inversion: no gradients are exchanged in federated distillation",
    "clients or servers that poison, and attacks outside the messages (timing, memory, the device itself)",
)
"""what no audit tests"""
NOT_TESTED_BELOW_LEVEL_2 = (
    "LiRA from shadow federations and from distilled students, canaries planted by coin, extracted models, images "
    "reconstructed from soft labels (--level 2)"
)
NOT_TESTED_OF_COORDINATORS = (
    "all attacks on members and models ({}): they need the clients' private records and models, and a coordinator has "
    "neither; simulate the same config with run.record_knowledge=true and audit that run"
)
