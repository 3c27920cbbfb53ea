"""FedMD: every client labels every proxy sample, the server averages (Li and Wang, arXiv 1910.03581).

As in Selective-FD's published comparison, softmax outputs are averaged and learned by soft cross-entropy; the original
averages raw scores and learns them by L1.
"""

from edgefd.federation.method import Method

METHOD = Method(name="fedmd", summary="the mean of all clients' soft labels on every proxy sample; no filter")
