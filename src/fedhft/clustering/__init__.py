"""Clustering clients: from their signatures to memberships (FedHFT, Ilhan et al. 2025, arXiv 2510.14054).

Reading order, each file with the equation and the source it begins with:

    signature          sum of signed, hashed values: feature hashing (Weinberger et al. 2009, arXiv 0902.2206)
    partition          z maximises sum_i <unit(sum of z_i's others), x_i>: spherical k-means, each client left out
    subspace           the J - 1 directions in which the means of a partition differ, or principal components
    fitting            r_ik ~ pi_k N(x_i; mu_k, S_k): expectation maximisation, started by Ward and k-means++
    resources          devices as a further coordinate, where the job wants them
    prediction         how many clusters, asked of unseen halves: do the others of mine predict my other half better?
    choice             J follows that answer as data change: one step at a time, asked twice
    selection          without halves, evidence(J) = log L_J - log L_1 - penalty: BIC (Schwarz 1978), with a margin
    identity           which new component is which old cluster (Kuhn 1955), and what became of the others
    gaussian_mixture   signatures -> components -> posteriors -> memberships: the model, and its update
"""
