"""What a trained model knows and prefers: bits per byte, tasks from files, calibration, bias."""
