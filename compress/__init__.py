"""The suite's library: what the scripts in the root are made of. docs/architecture.md draws it."""
