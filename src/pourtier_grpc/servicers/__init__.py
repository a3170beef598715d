"""The servicers: each method takes a request apart, makes one call, and answers."""
