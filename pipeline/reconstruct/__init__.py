"""What is reconstructed: scalar, vector and orientation fields."""
