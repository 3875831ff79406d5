"""Other ways to partition, route and copy, each small and with its source; all seen by one evaluator.

task: data of one comparison; peer: what a method hands over; evaluator: what that scans and finds;
choosing: settings chosen on held-out learn pairs; copies: rules that choose copies. One method each:
kmeans, balanced, scann_tree, linear_router, keynet, usp, neural_lsh, graph_parts, dcnet. Tested in tests/peers.
"""
