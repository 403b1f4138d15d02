"""The command line: flags, what a person sees, how a run begins and ends."""
