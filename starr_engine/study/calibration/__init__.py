"""Finding a policy's arguments on a user's own prompts."""
