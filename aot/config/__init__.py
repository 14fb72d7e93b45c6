"""Define all settings, and merge their values from several sources."""
