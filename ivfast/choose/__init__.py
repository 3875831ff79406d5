"""Whether a trained state is better than k-means, judged on held-out vectors, and what is fitted for it."""
