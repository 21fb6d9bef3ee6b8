"""One module per network: its config, the network, the map from published tensor names."""
