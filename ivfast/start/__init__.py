"""Where training starts: k-means, neighbours, and how much each neighbour counts."""
