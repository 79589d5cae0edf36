"""Many runs from one question: a space of configs, a folder of runs, and what starts them."""
