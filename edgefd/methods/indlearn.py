"""IndLearn: nothing is exchanged. The lower bound that collaboration must beat."""

from edgefd.federation.method import Method, accept_none
from edgefd.methods._references import private_rows, undisclosed

METHOD = Method(
    name="indlearn",
    summary="each client alone on its private data; no exchange",
    client_filter=accept_none,
    distillation_targets=private_rows,
    transform_federation=undisclosed,
)
