"""Is this copy of the images what was scored?"""
