"""Row masks: which rows of a factor a client with a density below 1 trains and sends (FedHFT, arXiv 2510.14054).

One file, rows: score_t[d] = m score_{t-1}[d] + (1 - m) |gradient of row d|^2, and rows longest unsent explored.
"""
