"""The comparison with other methods: evaluator and command, copies, each method."""
