"""What a training leaves behind, and many of them side by side."""
