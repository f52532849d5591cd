"""Where state lives that outlives a call."""
