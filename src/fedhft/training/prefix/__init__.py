"""The frozen prefix: layers below the adapters, whose output for a row never changes, and is kept.

With adapters on the last k of L layers, embeddings and the first L - k layers see the same input in every epoch of
every round, and nothing in them is trained. What enters layer L - k (the *boundary*) is worked out once per row and
read from then on, by training, probing, scoring and signatures alike. Caching activations of frozen layers across
rounds: FedAdapter (Cai et al., MobiCom 2023, arXiv 2205.10162).

    stack     the layers of a model: which are below a boundary, running them alone, and running the rest without them
    rows      a file of rows, each under a key that depends on all that the row's values depend on
    folder    the files of one agent, within a size, on a disk that may be full
    cache     what enters the boundary, for any batch: from the file where it is, worked out where it is not

The prefix is in evaluation mode whether it is cached or not, so that all clients train the same objective.
"""
