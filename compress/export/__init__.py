"""Other runtimes: writing files, running them, classifying photographs."""
