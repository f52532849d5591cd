"""The process beside each service that calls language models for it."""
