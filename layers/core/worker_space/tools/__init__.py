"""Workspace tools: the only way from an agent to the user's files."""
