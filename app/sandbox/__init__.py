"""Where it runs: a child process that can hurt only itself."""
