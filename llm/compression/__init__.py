"""A language model as a lossless compressor (Delétang et al. 2023). Needs the extra `compression`."""
