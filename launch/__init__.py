"""The command line: recipes, pipelines, run folders and launchers."""
