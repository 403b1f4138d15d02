"""What network is this? Reading a file's structure, groups of channels, costs, surgery."""
