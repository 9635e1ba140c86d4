"""The main job in three parts."""
