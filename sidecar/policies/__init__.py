"""What may be done and in which order: pure decisions, and the state that they rest on."""
