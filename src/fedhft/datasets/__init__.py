"""Data of a federation, from files to clients.

Reading order:

    examples      one labelled example
    tables        raw rows of a file: JSON lines, CSV, Parquet, a `datasets` id
    client_data   what an agent is given: its rows by the job's task, split into training and held-out rows
    source        a whole data set in a folder, before it is handed out
    partition     handing it out: Dirichlet label shares, hidden groups, evenly
    tickets       the demo's generated data, from the sentences in phrases
    federated     what was handed out, and the files it is written to
"""
