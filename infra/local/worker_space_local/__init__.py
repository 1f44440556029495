"""The embedded stack: stand-ins for every service Worker Space uses, on one machine, and the commands that run it.

Never shipped: the product does not import it.
"""
