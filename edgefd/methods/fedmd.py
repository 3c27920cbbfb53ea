"""FedMD: every client labels every proxy sample, the server averages (Li and Wang, arXiv 1910.03581).

As in the published comparison of Selective-FD, softmax outputs are averaged and distilled by soft cross-entropy. The
original method averages raw scores and distils them by the L1 loss.
"""

from edgefd.federation.method import Method

METHOD = Method(
    name="fedmd",
    summary="the mean of all clients' soft labels on every proxy sample; no filter",
    label_aggregation=True,
    remembers=True,
    privacy_accounting=True,
)
