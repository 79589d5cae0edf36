"""What a run cost, needs and reached: FLOPs, memory, baselines, plots and the pages that show them."""
