"""IndLearn: nothing is exchanged. The lower bound that collaboration must beat."""

from edgefd.federation.method import Method, claim_nothing
from edgefd.methods._references import private_rows, undisclosed

METHOD = Method(
    name="indlearn",
    summary="each client alone on its private data; no exchange",
    client_filter=claim_nothing,
    lesson=private_rows,
    regroup=undisclosed,
)
