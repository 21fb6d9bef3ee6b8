"""Options and stages that the pipelines from a prompt to a video share."""
