"""A page that shows what happens inside a model on the way from a prompt to the next token."""
