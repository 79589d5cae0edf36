"""Parameters to text: sampling, cached decoding, beam search, generation."""
