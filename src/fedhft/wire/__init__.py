"""The wire format: masked matrices to bytes and back, pure and to the bit; nothing received is believed.

Reading order, each file with the equation and the source it begins with:

    values    value = code * scale, |code| <= levels: stochastic quantisation, QSGD (Alistarh et al. 2017,
              arXiv 1610.02132)
    rows      which rows are present: bitmap, Rice-coded gaps (Rice and Plaunt 1971), or a seed
    entropy   byte streams through zstd's or deflate's Huffman stage
    codec     encode and decode: a MaskedDelta as an AdapterBlob, checked against the job's schema
    digest    names of blobs, and the chunks in which they travel
    limit     sum log2 C(n, k) + sum N H(stream): the shortest a message could be, for benchmarks and tests
"""
