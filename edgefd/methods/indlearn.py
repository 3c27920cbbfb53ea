"""IndLearn: nothing is exchanged. The lower bound that collaboration must beat."""

from edgefd.federation.method import MessageKind, Method, accept_none
from edgefd.methods._references import whole_private, without_contribution

METHOD = Method(
    name="indlearn",
    summary="reference: each client trains alone on its private data; no exchange",
    filter=accept_none,
    distillation_targets=whole_private,
    transform=without_contribution,
    message=MessageKind.NOTHING,
)
