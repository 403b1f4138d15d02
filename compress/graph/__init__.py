"""What network is this? Its layers as a graph, groups of channels, costs, trimmed networks."""
