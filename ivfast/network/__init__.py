"""What ivfast asks of a backend that trains the network."""
