"""The HTTP surface. User ids come from the verified token alone, project ids from the path."""
