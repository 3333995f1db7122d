//! Recipes, stages, one legible training step, checkpoints and metrics.
