"""How answers are scored: figures that add up over disjoint rows, and the metrics that follow from their sums.

A client scores its own rows, or its share of common ones. The mean of shares is right for an accuracy, and wrong for
F1, a correlation or a perplexity. So shares travel as sums, and a metric is computed once, from the sum of the sums:

    metrics      the metrics there are: bounds, which kinds of task have them, how they are pooled
    confusion    counts per class: accuracy, F1, MCC
    moments      sums of numbers, squares and products: Pearson, RMSE, MAE
    likelihood   summed negative log-likelihood of tokens, and how many were right: perplexity, token accuracy
    spans        entities in BIO tags, which `confusion` counts
"""
