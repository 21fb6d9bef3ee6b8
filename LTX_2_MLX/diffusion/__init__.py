"""The mathematics of sampling. The transformer comes in as an argument."""
