"""Mathematical answers: found in a response, parsed, and compared by value."""
