"""A federation's data, from files to clients.

Reading order:

    examples      one labelled example
    tables        raw rows of a file: JSON lines, CSV, Parquet, a `datasets` id
    client_data   an agent's rows, parsed by the job's task and split into training and held-out rows
    source        a whole data set in a folder, before it is partitioned
    partition     partitioning it: Dirichlet label shares, hidden groups, evenly
    tickets       the demo's generated data, from the sentences in phrases
    federated     partitioned data, and the files it is written to
"""
