"""CFD: FedED with hard labels from clients, four bits each for ten classes (Sattler et al., arXiv 2012.00632).

What the paper says and what is chosen here: docs/methods/cfd.md.
"""

from dataclasses import replace

from edgefd.core.knowledge import Knowledge
from edgefd.federation.context import ClientContext
from edgefd.federation.method import accepted_ids, labels_of
from edgefd.learners.batches import hard_labels
from edgefd.methods import feded


def upload(ctx: ClientContext) -> Knowledge:
    """Return the most likely class of each row as a one-hot row."""
    return labels_of(ctx, accepted_ids(ctx), hard_labels)


METHOD = replace(
    feded.METHOD,
    name="cfd",
    summary="clients send 1-bit soft labels; a server model distils their mean and sends its own soft labels",
    upload=upload,
    local_training="always",
)
