"""Stand-ins that speak the real wire: a scriptable provider, and a tiny model for a real server."""
