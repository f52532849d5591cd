"""The process beside each service that calls language models for it."""

VERSION = "0.1.0"
