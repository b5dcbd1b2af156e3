"""Clustering clients: from their signatures to memberships (FedHFT, Ilhan et al. 2025, arXiv 2510.14054).

Reading order, each file with the equation and the source it begins with:

    signature          sum of signed, hashed values: feature hashing (Weinberger et al. 2009, arXiv 0902.2206)
    subspace           the first J - 1 principal components of the signatures
    fitting            r_ik ~ pi_k N(x_i; mu_k, S_k): expectation maximisation, started by Ward and k-means++
    selection          evidence(J) = log L_J - log L_1 - penalty: how many clusters, BIC (Schwarz 1978) with a margin
    identity           which new component is which old cluster: the assignment problem (Kuhn 1955)
    gaussian_mixture   signatures -> components -> posteriors -> memberships: the model, and its update
"""
