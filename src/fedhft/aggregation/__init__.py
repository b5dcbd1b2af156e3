"""Aggregation, here called the fold: from accepted updates to a published version, pure and to the bit.

Reading order, each file with the equation and the source it begins with:

    fold       fold(state, updates) -> (blobs, state', report), and the fixed order of its sums
    sums       mean[d] = sum_i w_ij x_i[d] / max(mass of row d, tau mass): masked means of FedHFT (Ilhan et al. 2025,
               arXiv 2510.14054); without masks FedIT's (Zhang et al. 2023) and FedAvg's (McMahan et al. 2017)
    rules      what the sums need to know of a job and a round
    unequal_ranks  factors of which clients hold fewer columns: HetLoRA (Cho et al. 2024), FlexLoRA (Bai et al. 2024)
    trimming   the mean of a coordinate without its extremes (Yin et al. 2018, arXiv 1803.01498)
    lowrank    left @ right.T: sums of products in factors, truncated by SVD
    direction  <s_i, c_i> / |c_i| < -limits.opposed: updates that point against the others of their clusters
    publish    v = momentum v + mean: FedAvgM (Hsu et al. 2019, arXiv 1909.06335), and a residual for what coding drops
    versions   state_v = state_{v-1} + decode(blob_v): the same float32 bits on the server and on every client
    mixture    B = sum_j p_j B_j: what a client starts from (FedHFT)
"""
