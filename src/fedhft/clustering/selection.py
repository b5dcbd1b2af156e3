"""How many clusters: the Bayesian information criterion, made careful for a handful of clients.

For each J, one Gaussian and J Gaussians with a common (tied) covariance are compared in the space that J
uses (subspace.dimensions), which makes the gain in log likelihood independent of how the space is scaled:

    gain(J)  = log L_J - log L_1                                                    nats
    score(J) = gain(J) - parameters(J) / 2 * log n - MARGIN (J - 1),  score(1) = 0
    J        = argmax score, the smaller on a tie

Without the margin this is BIC (Schwarz 1978), whose penalty is asymptotic in n: the best split of 6 to 30
structureless clients gains several nats more than it charges. MARGIN nats per extra cluster (a BIC difference of
12; above 10 counts as very strong evidence, Kass and Raftery 1995) covers what such splits gain, whatever n.
"""

from __future__ import annotations

import numpy as np

from fedhft.adapter import Float64
from fedhft.clustering.gaussian import best_fit
from fedhft.clustering.subspace import dimensions, principal

MARGIN = 6.0
"""Nats per extra cluster beyond BIC."""


def choose_clusters(signatures: Float64, most: int, ridge: float) -> int:
    """Number of clusters in 1..min(most, n // 2) for signatures (n x D)."""
    clients = len(signatures)
    scores = {1: 0.0}
    for clusters in range(2, min(most, clients // 2) + 1):
        space = principal(signatures, dimensions(clients, clusters))
        dims = len(space.basis)
        if dims < clusters - 1:
            break  # fewer distinct signatures than clusters
        points = space.project(signatures)
        one = best_fit(points, 1, "tied", ridge).log_likelihood
        many = best_fit(points, clusters, "tied", ridge).log_likelihood
        parameters = (clusters - 1) * (dims + 1)
        scores[clusters] = many - one - 0.5 * parameters * float(np.log(clients)) - MARGIN * (clusters - 1)
    return max(scores, key=lambda clusters: (scores[clusters], -clusters))
