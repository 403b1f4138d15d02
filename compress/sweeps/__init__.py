"""Many runs: a file of scripts, flags and values as runs with folders of their own, made here or searched."""
