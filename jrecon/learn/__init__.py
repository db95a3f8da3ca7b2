"""The reconstruction function: learned from synthetic examples, depth map -> parameters."""
