"""The command line: flags, recorded configs, exit codes."""
