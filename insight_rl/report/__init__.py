"""Everything that reads finished runs: their curves, and why a step chose its prompts."""
