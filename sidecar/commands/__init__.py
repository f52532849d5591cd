"""What `sidecar check` and `sidecar ask` do; the command line itself is `cli.py`."""
